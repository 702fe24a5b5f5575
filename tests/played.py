"""Upkeep, intake and an engine as a test plays them: one step at a time, or in a thread."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from db.images import known_images
from db.queue import claims, leases, sessions
from db.queue.lease import Failure, Lease, RetryPolicy
from db.sql.database import Database
from db.vocabulary.errors import IdefiqError
from db.vocabulary.requests import blob_digests, image_references
from db.vocabulary.states import Stage
from idefiq.alt.wording import lint
from tests.db import builders
from tests.workers import parts
from workers.families.issues import find_issues

POLICY = RetryPolicy(max_attempts=1, first_wait_seconds=60.0)


def answer(text: str) -> dict[str, Any]:
    """An answer as a model gives it."""
    return {
        "text": text,
        "finish_reason": "stop",
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "template": "chat/1",
    }


def drafted(text: str, **alt_text: Any) -> dict[str, Any]:
    """A draft of alternative text as workers/families/alttext.py makes it."""
    faults = [
        {"code": fault.code, "message": fault.message}
        for fault in lint(text, near=[alt_text.get("caption", "")])
    ]
    told = {"issues": faults, "rewritten": False, "confidence": 0.5, "language": "English"}
    return {**answer(text), "alt_text": told}


class Played:
    """Workers on a record and a folder of blobs."""

    def __init__(self, record: Database, folder: Path, **settings: object) -> None:
        self._record = record
        self.upkeep = parts.upkeep(record, folder, **{"model_changed_seconds": 0, **settings})
        self._variant = ""
        self._intake = self._session(Stage.INTAKE)
        self._engine = self._session(Stage.GENERATE)

    def serve(self, variant: str) -> None:
        """Start the engine anew, with this variant of its model."""
        self._engine = self._session(Stage.GENERATE, variant)
        self._variant = variant

    def _session(self, stage: Stage, variant: str = "") -> str:
        model = builders.MODEL if stage is Stage.GENERATE else None
        with self._record.transaction() as transaction:
            return sessions.start(
                transaction,
                worker=f"played {stage}",
                stage=stage,
                model=model,
                lease_seconds=600,
                variant=variant,
            )

    def advance(self) -> None:
        """Do what intake would do with images that are good."""
        with self._record.transaction() as transaction:
            taken = claims.claim(
                transaction, session=self._intake, stage=Stage.INTAKE, model=None, limit=100
            )
            refused = [Failure(one, one.refusal) for one in taken if one.refusal]
            leases.fail(transaction, refused, POLICY)
            good = [lease for lease in taken if not lease.refusal]
            brought = [(lease, image_references(lease.request)) for lease in good]
            leases.advance(transaction, brought)
            for lease, images in brought:
                for digest in blob_digests(images):
                    found = known_images.CheckResult(known_images.OK, None, "PNG", 8, 6)
                    known_images.record_checks(transaction, {(lease.owner_id, digest): found})

    def claim(self, limit: int = 100) -> list[Lease]:
        """Upkeep, intake, and a claim of the engine."""
        self.upkeep.run_once()
        self.advance()
        return builders.claim(self._record, self._engine, limit)

    def complete(self, taken: list[Lease], text: str = "seen") -> None:
        """Answer what was claimed."""
        answers = []
        for lease in taken:
            asked = lease.request.get("alt_text")
            said = answer(text) if asked is None else drafted(text, **asked)
            found = find_issues(lease.request, said)
            served = {"variant": self._variant} if self._variant else {}
            answers.append((lease, {**said, **served, "issues": [str(issue) for issue in found]}))
        with self._record.transaction() as transaction:
            leases.complete(transaction, answers, {lease.item_id: 0.5 for lease in taken})

    def fail(self, taken: list[Lease], error: IdefiqError) -> None:
        """Fail what was claimed."""
        with self._record.transaction() as transaction:
            leases.fail(transaction, [Failure(lease, error) for lease in taken], POLICY)

    def step(self, text: str = "seen", limit: int = 100) -> int:
        """Answer what is due. Returns how many."""
        taken = self.claim(limit)
        self.complete(taken, text)
        self.upkeep.run_once()
        return len(taken)

    def running(self, text: str = "seen") -> contextlib.AbstractContextManager[None]:
        """Answer whatever comes, inside the block."""
        return self.meanwhile(lambda: self.step(text))

    @contextlib.contextmanager
    def meanwhile(self, act: Callable[[], object]) -> Iterator[None]:
        """Do something again and again, inside the block."""
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(0.02):
                act()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
