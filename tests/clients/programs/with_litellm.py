"""LiteLLM: response formats and tools, whole and streamed."""

import litellm
from common import BASE, KEY, MODEL, Scene, expect, messages

litellm.suppress_debug_info = True
asked = {"model": f"openai/{MODEL}", "api_base": BASE, "api_key": KEY, "messages": messages()}

whole = litellm.completion(**asked, response_format=Scene)
expect(Scene.model_validate_json(whole.choices[0].message.content))
pieces = litellm.completion(**asked, response_format=Scene, stream=True)
text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
expect(Scene.model_validate_json(text))
function = {"name": "scene", "parameters": Scene.model_json_schema()}
tools = [{"type": "function", "function": function}]
called = litellm.completion(**asked, tools=tools, tool_choice="required")
[call] = called.choices[0].message.tool_calls
expect(Scene.model_validate_json(call.function.arguments))
