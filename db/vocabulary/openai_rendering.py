"""Answers in the form of OpenAI's chat completions, for one caller or a batch's files.

item ─▶ chat.completion                              to whoever waits for it
     ─▶ {"custom_id", "response": {200, completion}}   a line of the output file
     ─▶ {"custom_id", "response": {400, error}}        a line of the error file: the item failed
     ─▶ {"custom_id", "error": {"code"}}               the same: it never ran
"""

from collections.abc import Sequence
from typing import Any

from db.vocabulary.errors import EngineError, FetchFailed, OutOfMemory, Poison
from db.vocabulary.items import Item
from db.vocabulary.lines import json_line, json_text
from db.vocabulary.states import ItemState
from db.vocabulary.structures import ANY_TOOL

#: What is not the caller's fault is a 500.
_OURS = frozenset(kind.code for kind in (EngineError, FetchFailed, OutOfMemory, Poison))


def completion_id(job_id: str, ordinal: int = 0) -> str:
    """Id of an item's completion."""
    return f"chatcmpl-{job_id.removeprefix('job_')}-{ordinal}"


def usage(answers: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Token counts of the answers to one prompt."""
    prompt = answers[0]["prompt_tokens"]
    completion_tokens = sum(answer["completion_tokens"] for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt + completion_tokens,
    }


def finish_reason(answer: dict[str, Any]) -> str:
    """Finish reason of an answer, as OpenAI's clients know it."""
    if answer["finish_reason"] == "length":
        return "length"
    return "tool_calls" if "tool" in answer else "stop"


def called(answer: dict[str, Any]) -> tuple[str, str] | None:
    """Return the function that an answer calls, and its arguments; None if it calls none."""
    name, text = answer.get("tool"), answer["text"]
    if name != ANY_TOOL:
        return (name, text) if name else None
    if "data" not in answer:  # cut before it was clear which
        return None
    return answer["data"]["name"], json_text(answer["data"]["arguments"])


def tool_call(name: str, job_id: str, ordinal: int = 0, arguments: str = "") -> dict[str, Any]:
    """Render the call of a tool."""
    call_id = f"call_{job_id.removeprefix('job_')}_{ordinal}"
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _message(item: Item, job_id: str) -> dict[str, Any]:
    assert item.answer is not None
    message = {"role": "assistant", "content": item.answer["text"], "refusal": None}
    if call := called(item.answer):
        name, arguments = call
        calls = [tool_call(name, job_id, item.ordinal, arguments)]
        return {**message, "content": None, "tool_calls": calls}
    return message


def fingerprint(variant: str | None) -> str | None:
    """Render the variant of a model: another one may answer the same request otherwise."""
    return f"fp_{variant}" if variant else None


def completion(items: Sequence[Item], job_id: str, model: str) -> dict[str, Any]:
    """Render answered items as the choices of a chat.completion."""
    answers = [item.answer for item in items if item.answer is not None]
    first = items[0]
    assert first.finished_at is not None
    return {
        "id": completion_id(job_id, first.ordinal),
        "object": "chat.completion",
        "created": int(first.finished_at.timestamp()),
        "model": model,
        "choices": [
            {
                "index": number,
                "message": _message(item, job_id),
                "logprobs": None,
                "finish_reason": finish_reason(answer),
            }
            for number, (item, answer) in enumerate(zip(items, answers, strict=True))
        ],
        "usage": usage(answers),
        "system_fingerprint": fingerprint(answers[0].get("variant")),
    }


def error_body(message: str, code: str, *, status: int, param: str | None = None) -> dict[str, Any]:
    """Render an error object."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def failure(item: Item) -> tuple[int, dict[str, Any]]:
    """Render a failed item: its HTTP status and body."""
    code = str(item.error_code)
    status = 500 if code in _OURS else 400
    return status, error_body(str(item.error_message), code, status=status)


def line(item: Item, job_id: str, model: str, *, expired: bool) -> bytes:
    """Render a final item as a line of a batch's files."""
    name = f"{job_id.removeprefix('job_')}_{item.ordinal}"
    shown: dict[str, Any] = {
        "id": f"batch_req_{name}",
        "custom_id": item.custom_id,
        "response": None,
        "error": None,
    }
    if item.state == ItemState.CANCELLED:
        code, why = ("expired", "expired") if expired else ("cancelled", "was cancelled")
        shown["error"] = {
            "code": f"batch_{code}",
            "message": f"the batch {why} before this request was begun",
        }
    elif item.answer is not None:
        shown["response"] = _response(200, name, completion([item], job_id, model))
    else:
        status, body = failure(item)
        shown["response"] = _response(status, name, body)
    return json_line(shown) + b"\n"


def _response(status: int, name: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": f"req_{name}", "body": body}
