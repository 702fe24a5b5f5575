"""any-llm: a response format."""

import any_llm
from common import BASE, KEY, MODEL, Scene, expect, messages

found = any_llm.completion(
    model=MODEL,
    provider="openai",
    api_base=BASE,
    api_key=KEY,
    messages=messages(),
    response_format=Scene,
)
expect(Scene.model_validate_json(found.choices[0].message.content))
