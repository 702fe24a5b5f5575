"""Instructor: tools and schemas, and a second try after an answer that does not please."""

import instructor
import openai
from common import BASE, KEY, MODEL, Answer, Scene, expect, messages
from pydantic import field_validator

client = openai.OpenAI(base_url=BASE, api_key=KEY, max_retries=0)
tries = []


class Picky(Answer):
    """Pleased by the second answer."""

    @field_validator("yes")
    @classmethod
    def _second(cls, value: bool) -> bool:
        tries.append(value)
        if len(tries) < 2:
            raise ValueError("think again")
        return value


for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    asking = instructor.from_openai(client, mode=mode)
    create = asking.chat.completions.create
    expect(create(model=MODEL, messages=messages(), response_model=Scene, max_retries=0))
    tries.clear()
    found = create(model=MODEL, messages=messages(), response_model=Picky, max_retries=2)
    expect(found, Picky)
    assert len(tries) >= 2
