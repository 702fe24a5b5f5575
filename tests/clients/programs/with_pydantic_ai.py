"""Pydantic AI: output by a tool, by several, and by a schema."""

import base64

from common import BASE, KEY, MODEL, Answer, Scene, expect, picture
from pydantic_ai import Agent, BinaryContent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=BASE, api_key=KEY))
image = BinaryContent(base64.b64decode(picture().partition(",")[2]), media_type="image/png")
for output in (Scene, ToolOutput(Scene), NativeOutput(Scene)):
    found = Agent(model, output_type=output).run_sync(["Describe the image.", image])
    expect(found.output)
either = Agent(model, output_type=[Scene, Answer]).run_sync(["Describe the image.", image])
expect(either.output, (Scene, Answer))
