"""Answers made of generated tokens, whichever runner generated them."""

from collections.abc import Sequence
from typing import Any

from db.vocabulary.errors import ItemRefused
from db.vocabulary.kinds import KINDS
from db.vocabulary.structures import structure_of
from db.vocabulary.texts import storable
from workers.decoding import generation
from workers.decoding.streaming import AnswerStreamer
from workers.families.base import Answer, DecoderName, Prepared
from workers.families.loaded import LoadedModel


def make_answer(
    loaded: LoadedModel,
    item: Prepared,
    ids: Sequence[int],
    path: DecoderName,
    logprobs: Sequence[float],
) -> Answer:
    """Make an answer of generated tokens.

    Args:
        ids: Generated tokens, the end token included.
        path: What generated them.
        logprobs: Log probability of each token; empty unless decoding was greedy.
    """
    stops = loaded.options(item.request).get("stop", ())
    output = generation.detokenize(ids, stops, loaded.end_tokens, loaded.tokenizer)
    return Answer(
        text=output.text,
        finish_reason=output.finish_reason,
        prompt_tokens=item.tokens,
        completion_tokens=output.tokens,
        template=item.inputs.template,
        path=path,
        seed=item.inputs.seed,
        prompt=echoed_prompt(item),
        confidence=generation.confidence(logprobs[: output.tokens]),
        kind_fields=KINDS[item.request["kind"]].read(storable(output.text), item.request),
        data=_value(item, output),
        tool=item.request.get("tool"),
    )


def _value(item: Prepared, output: generation.GeneratedText) -> Any:
    """Return the value of a structured answer; None of another one, or of one that was cut."""
    structure = structure_of(item.request)
    if structure is None or output.finish_reason == "length":
        return None
    if structure.form == "regex" and output.is_trimmed:
        raise ItemRefused(
            "the answer begins or ends with white space, which is not kept: exclude it from the"
            " pattern"
        )
    try:
        return structure.read(output.text)
    except ValueError as error:
        raise ItemRefused(f"the structured answer cannot be read: {error}") from error


def echoed_prompt(item: Prepared) -> str | None:
    """Return an item's prompt if its request asks for it."""
    asked = item.request.get("options", {}).get("echo")
    return item.inputs.prompt if asked else None


def answer_streamer(
    loaded: LoadedModel, item: Prepared, options: dict[str, Any]
) -> AnswerStreamer | None:
    """Return what streams an item's answer or finds its stop strings, if it needs that."""
    stops = options.get("stop", ())
    if item.on_text is None and not stops:
        return None
    return AnswerStreamer(item.on_text, stops, loaded.end_tokens, loaded.tokenizer)
