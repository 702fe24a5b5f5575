"""OpenAI's client: response formats and tools, whole and streamed, and a batch of both."""

import json
import time

import openai
from common import BASE, KEY, MODEL, Answer, Scene, expect, messages

client = openai.OpenAI(base_url=BASE, api_key=KEY, max_retries=0)
tools = [openai.pydantic_function_tool(each) for each in (Scene, Answer)]

parsed = client.chat.completions.parse(model=MODEL, messages=messages(), response_format=Scene)
expect(parsed.choices[0].message.parsed)
with client.chat.completions.stream(
    model=MODEL, messages=messages(), response_format=Scene
) as stream:
    expect(stream.get_final_completion().choices[0].message.parsed)
called = client.chat.completions.parse(
    model=MODEL, messages=messages(), tools=tools[:1], tool_choice="required"
)
[call] = called.choices[0].message.tool_calls
expect(call.function.parsed_arguments)
either = client.chat.completions.parse(
    model=MODEL, messages=messages(), tools=tools, tool_choice="required"
)
[call] = either.choices[0].message.tool_calls
expect(call.function.parsed_arguments, (Scene, Answer))
with client.chat.completions.stream(
    model=MODEL, messages=messages(), tools=tools[:1], tool_choice="required"
) as stream:
    [call] = stream.get_final_completion().choices[0].message.tool_calls
    expect(call.function.parsed_arguments)
history = [
    *messages(),
    called.choices[0].message.to_dict(),
    {"role": "tool", "tool_call_id": call.id, "content": "thank you"},
]
after = client.chat.completions.parse(model=MODEL, messages=history, response_format=Answer)
expect(after.choices[0].message.parsed, Answer)

schema = {"name": "scene", "schema": Scene.model_json_schema()}
body = {
    "model": MODEL,
    "messages": messages(),
    "response_format": {"type": "json_schema", "json_schema": schema},
}
line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
file = client.files.create(file=("lines.jsonl", json.dumps(line).encode()), purpose="batch")
batch = client.batches.create(
    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
)
while batch.status not in ("completed", "failed", "expired", "cancelled"):
    time.sleep(0.2)
    batch = client.batches.retrieve(batch.id)
answered = json.loads(client.files.content(batch.output_file_id).text)
said = answered["response"]["body"]["choices"][0]["message"]["content"]
expect(Scene.model_validate_json(said))
