"""Whatever a grammar lets a model say is valid by the schema that was submitted."""

import random
from typing import Any

import jsonschema
import pytest
from llguidance import LLMatcher, LLTokenizer

from db.grammars.grammar import grammar_of
from db.vocabulary.schema_checks import schema_text
from db.vocabulary.structures import Structure

SIMPLE = ("string", "integer", "number", "boolean", "null", "enum")
NESTED = ("object", "array", "anyOf", "oneOf")
VALUES: list[Any] = [1, "a", None, True, 'b"c', [1], {"x": 1}, 2.5]
BYTES = LLTokenizer("byte")
#: Tokens of one answer; what is not complete by then is left out.
MOST = 400


def random_simple_schema(rng: random.Random, kind: str) -> dict[str, Any]:
    if kind == "enum":
        return {"enum": rng.sample(VALUES, 3)}
    rules: dict[str, dict[str, Any]] = {
        "string": {"maxLength": rng.randint(0, 5)},
        "integer": {"minimum": rng.randint(-9, 9), "multipleOf": rng.choice((2, 3, 7))},
        "number": {"exclusiveMaximum": rng.randint(-9, 9), "multipleOf": 0.5},
    }
    own = [*rules.get(kind, {}).items()]
    return {"type": kind, **dict(rng.sample(own, rng.randint(0, len(own))))}


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    kind = rng.choice(SIMPLE if depth > 2 else (*SIMPLE, *NESTED))
    match kind:
        case "object":
            named = {
                name: random_schema(rng, depth + 1)
                for name in rng.sample("abcd", rng.randint(0, 3))
            }
            required = [name for name in named if rng.random() < 0.6]
            open_to = (
                {"additionalProperties": random_schema(rng, depth + 1)}
                if rng.random() < 0.3
                else {}
            )
            return {"type": kind, "properties": named, "required": required, **open_to}
        case "array":
            return {
                "type": kind,
                "items": random_schema(rng, depth + 1),
                "maxItems": rng.randint(0, 3),
            }
        case "anyOf":
            return {kind: [random_schema(rng, depth + 1), random_schema(rng, depth + 1)]}
        case "oneOf":
            return {kind: [{"type": "string", "maxLength": 3}, {"type": "integer"}]}
    return random_simple_schema(rng, kind)


def random_referring_schema(rng: random.Random) -> dict[str, Any]:
    listed = {"type": "array", "items": {"$ref": "#/$defs/x"}, "maxItems": 2}
    return {"$defs": {"x": random_schema(rng, 1)}, **listed}


def random_answer(rng: random.Random, asked: Structure) -> str | None:
    """Return what a model says that draws from all that it may say, if it comes to an end."""
    matcher = LLMatcher(BYTES, grammar_of(asked), log_level=0)
    answer: list[int] = []
    while len(answer) < MOST and not matcher.is_error() and not matcher.is_stopped():
        mask = matcher.compute_bitmask()
        allowed = [byte for byte in range(256) if mask[byte // 8] >> byte % 8 & 1]
        if not allowed or (matcher.is_accepting() and rng.random() < 0.5):
            break
        closing = [byte for byte in allowed if chr(byte) in '"]}']
        answer.append(rng.choice(closing if closing and rng.random() < 0.5 else allowed))
        matcher.consume_token(answer[-1])
    return bytes(answer).decode(errors="replace") if matcher.is_accepting() else None


@pytest.mark.parametrize("seed", range(6))
def test_an_answer_by_the_grammar_is_valid_by_the_schema(seed: int) -> None:
    rng = random.Random(seed)
    complete = 0

    for _ in range(150):
        given = rng.choice((random_schema, random_referring_schema))(rng)
        asked = Structure("schema", schema_text(given))
        answer = random_answer(rng, asked)
        if answer is None or "\ufffd" in answer:
            continue
        complete += 1
        jsonschema.validate(asked.read(answer), given)

    assert complete > 100
