"""The intake stage: fetch, store and check the images of items, then pass the items to engines.

claim ─▶ known digest ───────────────────────────────────▶ advance ─▶ wake the engines
     └─▶ fetch ─▶ store ─▶ check in a child ─▶ result ─┘   └─ bad: the item fails, others go on
"""

import hashlib
import io
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

from db import failpoints, logs
from db.blobs.store import BlobStore, image_key
from db.images import known_images
from db.images.known_images import OK, CheckResult
from db.queue.lease import Failure, Lease
from db.sql.database import Database
from db.tracing import work_span
from db.vocabulary.errors import (
    CheckDied,
    EngineError,
    IdefiqError,
    ImagePoison,
    ItemError,
)
from db.vocabulary.requests import blob_digests, image_references
from db.vocabulary.states import Stage
from workers import svg
from workers.broker import Wakes, engine_queue
from workers.intake.check import Checkers
from workers.intake.check_results import CheckResultBuffer, Owned
from workers.intake.named_locks import NamedLocks
from workers.intake.source import Sources
from workers.lease_writer import LeaseWriter, claim_and_work
from workers.metrics import step
from workers.session import Session

#: Items in one claim of a lane.
CLAIM_ITEMS = 64
#: Finished items are written together after this time at most.
WRITE_SECONDS = 0.05
#: Two children that die on the same bytes are no coincidence.
MAX_CRASHES = 2

T = TypeVar("T")
IntakeOutcome = list[str] | IdefiqError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claimed:
    """State shared by the items of one claim.

    Attributes:
        stored: Owners and digests of images that the database knew.
        check_results: Check results from the database, and those found since.
        examples: Outcome of the examples that a job's items share, by job.
    """

    stored: set[Owned]
    check_results: dict[Owned, CheckResult]
    examples: dict[str, IntakeOutcome] = field(default_factory=dict)


class Intake:
    """Does the work of an intake worker; its resident loop calls `run_once`.

    Args:
        fetches: Images fetched at the same time.
        stopping: Set when nothing is to be started any more.
    """

    def __init__(  # noqa: PLR0913 - the parts of a worker, wired in __main__
        self,
        database: Database,
        store: BlobStore,
        sources: Sources,
        checkers: Checkers,
        session: Session,
        wakes: Wakes,
        lease_writer: LeaseWriter,
        *,
        fetches: int,
        stopping: threading.Event,
    ) -> None:
        self._database, self._store = database, store
        self._sources, self._checkers = sources, checkers
        self._session, self._wakes, self._lease_writer = session, wakes, lease_writer
        # One thread at a time works on an image, or on the examples of a job.
        self._locks = NamedLocks()
        self._check_results = CheckResultBuffer(database, session)
        self._fetches = ThreadPoolExecutor(fetches, thread_name_prefix="fetch")
        self._stopping = stopping

    def run_once(self) -> bool:
        """Claim due items and take their images in. Returns True if there may be more."""
        return claim_and_work(
            self._database,
            self._session,
            self._work,
            stage=Stage.INTAKE,
            model=None,
            limit=CLAIM_ITEMS,
        )

    def close(self) -> None:
        """Wait for fetches that run."""
        self._fetches.shutdown(cancel_futures=True)

    def _work(self, taken: Sequence[Lease]) -> None:
        claimed = self._look_up(taken)
        known: list[Lease] = []
        new: list[Lease] = []
        for lease in taken:
            (known if self._is_checked(lease, claimed) else new).append(lease)
        self._write([(lease, lease.intake_references) for lease in known], [])
        pending = {self._fetches.submit(self._take_in, lease, claimed): lease for lease in new}
        while pending:
            self._write_done(pending)
            if self._stopping.is_set():
                # What has begun is short and finishes; the rest goes back.
                unbegun = [future for future in pending if future.cancel()]
                self._lease_writer.release([pending.pop(future) for future in unbegun])

    def _look_up(self, taken: Sequence[Lease]) -> Claimed:
        """Look up the known images of a claim."""
        wanted: dict[int, set[str]] = {}
        for lease in taken:
            wanted.setdefault(lease.owner_id, set()).update(blob_digests(lease.intake_references))
        claimed = Claimed(set(), {})
        with self._database.snapshot() as transaction:
            for owner_id, digests in wanted.items():
                stored = known_images.stored(transaction, owner_id, digests)
                claimed.stored.update((owner_id, digest) for digest in stored)
                found = known_images.get(transaction, owner_id, digests)
                claimed.check_results.update(
                    {(owner_id, d): check_result for d, check_result in found.items()}
                )
        return claimed

    @staticmethod
    def _is_checked(lease: Lease, claimed: Claimed) -> bool:
        """True if all images of the item were found good before."""
        images = [
            (lease.owner_id, reference.removeprefix("blob:"))
            for reference in lease.intake_references
        ]
        found = [claimed.check_results.get(image) for image in images]
        return all(check_result is not None and check_result.code == OK for check_result in found)

    def _write_done(self, pending: dict[Future[IntakeOutcome], Lease]) -> None:
        wait(pending, return_when=FIRST_COMPLETED)
        wait(pending, timeout=WRITE_SECONDS)
        arrived: list[tuple[Lease, list[str]]] = []
        failures: list[Failure] = []
        for future in [future for future in pending if future.done()]:
            lease, outcome = pending.pop(future), future.result()
            if isinstance(outcome, IdefiqError):
                failures.append(Failure(lease, outcome))
            else:
                arrived.append((lease, outcome))
        self._write(arrived, failures)

    def _write(
        self, arrived: Sequence[tuple[Lease, list[str]]], failures: Sequence[Failure]
    ) -> None:
        self._check_results.write()
        self._lease_writer.write(arrived=arrived, failures=failures)
        self._wakes.wake(*{engine_queue(lease.model) for lease, _ in arrived})

    # ---- one item -------------------------------------------------------------------

    def _take_in(self, lease: Lease, claimed: Claimed) -> IntakeOutcome:
        with logs.bound(**lease.ids), work_span("take in", [lease.traceparent], **lease.ids):
            return self._take_in_guarded(lease, claimed)

    def _take_in_guarded(self, lease: Lease, claimed: Claimed) -> IntakeOutcome:
        try:
            own = len(image_references(lease.request))
            wanted = lease.intake_references
            images = [self._take_in_image(lease.owner_id, ref, claimed) for ref in wanted[:own]]
            return images + self._take_in_examples(lease, wanted[own:], claimed)
        except IdefiqError as error:
            return error
        except Exception:  # one item must not fail its neighbours
            log.exception("unexpected error in the intake of item %d", lease.item_id)
            return EngineError("internal error in intake; see the worker's log")

    def _take_in_examples(self, lease: Lease, wanted: list[str], claimed: Claimed) -> list[str]:
        """Take in the item's own examples, or those of its job once for the whole claim."""
        if not wanted or not lease.shares_examples:
            return [self._take_in_image(lease.owner_id, ref, claimed) for ref in wanted]
        shared = claimed.examples
        with self._locks.holding(lease.job_id):
            if lease.job_id not in shared:
                try:
                    shared[lease.job_id] = [
                        self._take_in_image(lease.owner_id, ref, claimed) for ref in wanted
                    ]
                except IdefiqError as error:
                    shared[lease.job_id] = error
        outcome = shared[lease.job_id]
        if isinstance(outcome, IdefiqError):
            raise outcome
        return outcome

    def _take_in_image(self, owner_id: int, reference: str, claimed: Claimed) -> str:
        """Store and check one image; returns its `blob:` reference."""
        digest = reference.removeprefix("blob:") if reference.startswith("blob:") else None
        if digest and (check_result := claimed.check_results.get((owner_id, digest))):
            return _accept(digest, check_result)
        with step("fetch"):
            data = self._sources.read(owner_id, reference)
        if digest is None:
            return self._store_and_check(owner_id, data, reference, claimed)
        if (owner_id, digest) not in claimed.stored:  # uploaded straight to the store
            with self._database.transaction() as transaction:
                known_images.add(transaction, owner_id, {digest: len(data)})
        return self._check(owner_id, digest, data, reference, claimed)

    def _store_and_check(self, owner_id: int, data: bytes, reference: str, claimed: Claimed) -> str:
        """Store and check bytes, unless both were done before."""
        digest = hashlib.sha256(data).hexdigest()
        with self._database.transaction() as transaction:
            known_images.mark_used(transaction, owner_id, [digest], storing=True)
            known = known_images.get(transaction, owner_id, [digest])
        if check_result := known.get(digest):
            return _accept(digest, check_result)
        self._store.put(image_key(owner_id, digest), io.BytesIO(data))
        failpoints.trigger("stored", reference)
        with self._database.transaction() as transaction:
            known_images.add(transaction, owner_id, {digest: len(data)})
        return self._check(owner_id, digest, data, reference, claimed)

    def _check(
        self, owner_id: int, digest: str, data: bytes, reference: str, claimed: Claimed
    ) -> str:
        """Check a stored image once. Of an SVG, the PNG drawn from it is stored and checked."""
        owned = (owner_id, digest)
        with self._locks.holding(owned):
            check_result = claimed.check_results.get(owned) or self._check_results.get(owned)
            if check_result is None and svg.is_svg(data):
                drawn = self._in_child(self._checkers.draw, owner_id, digest, data)
                if isinstance(drawn, bytes):
                    # The SVG itself stays unchecked: models are shown the drawing.
                    return self._store_and_check(owner_id, drawn, reference, claimed)
                check_result = drawn
            if check_result is None:
                check_result = self._in_child(self._checkers.check, owner_id, digest, data)
            failpoints.trigger("checked", reference)
            claimed.check_results[owned] = check_result
            self._check_results.add(owned, check_result)
        return _accept(digest, check_result)

    def _in_child(
        self, work: Callable[[bytes], T], owner_id: int, digest: str, data: bytes
    ) -> T | CheckResult:
        try:
            with step("check"):
                return work(data)
        except CheckDied as error:
            with self._database.transaction() as transaction:
                crashes = known_images.count_crash(transaction, owner_id, digest)
            if crashes < MAX_CRASHES:
                raise
            return CheckResult(ImagePoison.code, f"{error}, {crashes} times")


def _accept(digest: str, check_result: CheckResult) -> str:
    if check_result.code != OK:
        raise BadImage(check_result)
    return f"blob:{digest}"


class BadImage(ItemError):
    """An image that a check found bad, now or earlier; its code is that of the check result."""

    def __init__(self, check_result: CheckResult) -> None:
        super().__init__(check_result.message or "the image is bad")
        self.code = check_result.code
