"""The result writer: writes answers and errors soon after they exist, many in a transaction."""

import logging
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from db import failpoints
from db.queue.lease import Failure, Lease
from db.vocabulary.errors import EngineError, IdefiqError
from db.vocabulary.model_info import ModelInfo
from db.vocabulary.states import SourceApi
from workers.decoding import metrics
from workers.engine.in_flight import InFlight, ItemStep
from workers.families.base import Answer
from workers.families.issues import find_issues
from workers.lease_writer import LeaseWriter
from workers.session import Session

#: Answers within this time are written together, unless the device is idle or a caller waits.
GATHER_SECONDS = 0.05
#: Most answers in one transaction.
MAX_ANSWERS = 256


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as the JSON that is stored, and its time on the device."""

    record: dict[str, Any]
    device_seconds: float = 0.0


def stored_answer(
    lease: Lease, answer: Answer, card: ModelInfo, device_seconds: float
) -> StoredAnswer:
    """Make of an answer what is stored, with the model that gave it.

    Raises:
        EngineError: A score is no number.
    """
    record = answer.record(lease.request["kind"]) | {"model": card.name, "variant": card.variant}
    if not all(math.isfinite(score.logprob) for score in answer.scores or ()):
        raise EngineError("the score of a label is not finite")
    orjson.dumps(record)  # must raise here, not in the transaction that neighbours share
    return StoredAnswer(record, device_seconds)


def with_issues(lease: Lease, answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer with its issues; one of the cache may have them already."""
    issues = answer.get("issues")
    if issues is None:
        try:
            issues = [issue.value for issue in find_issues(lease.request, answer)]
        except Exception:  # one answer must not fail its neighbours
            log.exception("no issues were looked for", extra={"ids": lease.ids})
            issues = []
    return {**answer, "issues": issues}


def _count(answers: Sequence[tuple[Lease, dict[str, Any]]]) -> None:
    """Count answers that are about to be written: all at once, because each counter locks."""
    generated = [(lease, answer) for lease, answer in answers if "cached" not in answer]
    metrics.PROMPT_TOKENS.inc(sum(answer["prompt_tokens"] for _, answer in generated))
    metrics.GENERATED_TOKENS.inc(sum(answer["completion_tokens"] for _, answer in generated))
    metrics.IMAGES_ANSWERED.inc(sum(len(lease.stored_references) for lease, _ in generated))
    issues = Counter(
        (lease.model, issue) for lease, answer in answers for issue in answer["issues"]
    )
    for (model, issue), count in issues.items():
        metrics.ANSWER_ISSUES.labels(model, issue).inc(count)
    for model in {lease.model for lease, _ in answers}:
        found = sum(bool(answer["issues"]) for lease, answer in answers if lease.model == model)
        metrics.ANSWERS_WITH_ISSUES.labels(model).inc(found)


@dataclass(frozen=True, slots=True)
class Released:
    """The item goes back to the queue, due after `wait_seconds`."""

    wait_seconds: float = 0.0


ItemEnd = StoredAnswer | Released | IdefiqError
#: An item, and how it ends.
EndedItem = tuple[Lease, ItemEnd]

log = logging.getLogger(__name__)


class ResultWriter:
    """Writes how items end, in a thread of its own.

    Args:
        in_flight: Items are removed from it when they are written, or given up.
        is_idle: Returns True if no more results are to be expected soon.
    """

    def __init__(
        self,
        lease_writer: LeaseWriter,
        session: Session,
        in_flight: InFlight,
        *,
        is_idle: Callable[[], bool],
    ) -> None:
        self._lease_writer, self._session = lease_writer, session
        self._in_flight, self._is_idle = in_flight, is_idle
        self._ended: queue.SimpleQueue[EndedItem | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="write")
        self._thread.start()

    def put(self, lease: Lease, end: ItemEnd) -> None:
        """Queue an item's end to be written. Never blocks."""
        self._in_flight.move([lease], ItemStep.WRITING)
        self._ended.put((lease, end))

    def close(self) -> None:
        """Write everything that is queued, and stop."""
        self._ended.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._ended.get()) is not None:
            gathered, is_last = self._gather(first)
            for session_id in {lease.session_id for lease, _ in gathered}:
                self._write(
                    session_id, [one for one in gathered if one[0].session_id == session_id]
                )
            self._in_flight.remove(lease for lease, _ in gathered)
            if is_last:
                return

    def _gather(self, first: EndedItem) -> tuple[list[EndedItem], bool]:
        gathered = [first]
        until = time.monotonic() + GATHER_SECONDS
        while len(gathered) < MAX_ANSWERS:
            wait = 0.0
            if self._ended.empty() and not self._is_awaited(gathered[-1][0]):
                wait = max(until - time.monotonic(), 0.0)
            try:
                one = self._ended.get(timeout=wait)
            except queue.Empty:
                return gathered, False
            if one is None:
                return gathered, True
            gathered.append(one)
        return gathered, False

    def _is_awaited(self, last: Lease) -> bool:
        return last.source_api is SourceApi.CHAT or self._is_idle()

    def _write(self, session_id: str, ended: Sequence[EndedItem]) -> None:
        answers = [
            (lease, with_issues(lease, one.record))
            for lease, one in ended
            if isinstance(one, StoredAnswer)
        ]
        _count(answers)
        device_seconds = {
            lease.item_id: one.device_seconds
            for lease, one in ended
            if isinstance(one, StoredAnswer)
        }
        failures = [Failure(lease, one) for lease, one in ended if isinstance(one, IdefiqError)]
        back: dict[float, list[Lease]] = {}
        for lease, one in ended:
            if isinstance(one, Released):
                back.setdefault(one.wait_seconds, []).append(lease)
        try:
            failpoints.trigger("generated", ended)
            self._lease_writer.write(
                answers=answers, failures=failures, device_seconds=device_seconds
            )
            for wait_seconds, leases in back.items():
                self._lease_writer.release(leases, wait_seconds=wait_seconds)
        except Exception as error:  # unwritten items are rescued; see lease_writer.py
            log.warning("the results of %d items were not written: %s", len(ended), error)
            self._session.abandon(session_id)
