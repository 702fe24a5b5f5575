"""The intake stage: claim items, bring their images in, hand them on to the engines.

claim ─▶ known digest ────────────────────────────────▶ advance ─▶ wake(engine)
     └─▶ read ─▶ store ─▶ check in a child ─▶ verdict ─┘   └─ bad: fail, its neighbours go on
"""

import hashlib
import io
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from db import failpoints, verdicts
from db.blobs import BlobStore, image_key
from db.database import Database
from db.errors import (
    CheckDied,
    EngineError,
    IdefiqError,
    ImageNotFound,
    ImagePoison,
    ItemError,
)
from db.leases import Failure, Lease
from db.requests import blob_digests, image_references
from db.states import Stage
from db.verdicts import OK, Verdict
from workers import svg
from workers.broker import Wakes, engine_queue
from workers.ends import LeaseEnds, claim_and_work
from workers.intake.check import Checkers
from workers.intake.findings import Findings, Owned
from workers.intake.source import Sources
from workers.loop import ResidentLoop
from workers.session import Session

#: Items claimed at a time by one lane.
CLAIM_ITEMS = 64
#: Finished items are written together after at most this long.
WRITE_SECONDS = 0.05
#: A second child that dies on the same bytes is no chance any more.
MAX_DEATHS = 2

T = TypeVar("T")
Outcome = list[str] | IdefiqError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claimed:
    """What the items of one claim have in common.

    Attributes:
        stored: Owners and digests of images that the record knew.
        verdicts: Those that it had on them, and those that were found since.
        examples: What became of the examples that a job's items share.
    """

    stored: set[Owned]
    verdicts: dict[Owned, Verdict]
    examples: dict[str, Outcome] = field(default_factory=dict)


class Turn:
    """A lock, and how many threads hold it or wait for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0


class Intake:
    """Does the work of an intake worker; `look` is what its resident loop runs.

    Args:
        fetches: Images fetched at the same time.
    """

    def __init__(  # noqa: PLR0913 - the parts of a worker, wired in __main__
        self,
        database: Database,
        store: BlobStore,
        sources: Sources,
        checkers: Checkers,
        session: Session,
        wakes: Wakes,
        ends: LeaseEnds,
        *,
        fetches: int,
    ) -> None:
        self._database, self._store = database, store
        self._sources, self._checkers = sources, checkers
        self._session, self._wakes, self._ends = session, wakes, ends
        self._checking: dict[tuple[int, str], Turn] = {}
        self._checking_lock = threading.Lock()
        self._findings = Findings(database)
        self._fetches = ThreadPoolExecutor(fetches, thread_name_prefix="fetch")
        self.loop: ResidentLoop | None = None

    def look(self) -> bool:
        """Claim what is due and bring it in. Returns whether there may be more."""
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

    def _work(self, taken: Sequence[Lease], session: str) -> None:
        claimed = self._look_up(taken)
        known: list[Lease] = []
        new: list[Lease] = []
        for lease in taken:
            (known if self._is_checked(lease, claimed) else new).append(lease)
        self._write(session, [(lease, lease.wanted) for lease in known], [])
        pending = {self._fetches.submit(self._bring_in, lease, claimed): lease for lease in new}
        while pending:
            self._write_done(session, pending)
            if self.loop and self.loop.stopping.is_set():
                # What has begun is short and finishes; the rest goes back.
                unbegun = [future for future in pending if future.cancel()]
                self._ends.release(session, [pending.pop(future) for future in unbegun])

    def _look_up(self, taken: Sequence[Lease]) -> Claimed:
        """What is known of the images of a claim."""
        wanted: dict[int, set[str]] = {}
        for lease in taken:
            wanted.setdefault(lease.owner_id, set()).update(blob_digests(lease.wanted))
        claimed = Claimed(set(), {})
        with self._database.snapshot() as transaction:
            for owner_id, digests in wanted.items():
                stored = verdicts.stored(transaction, owner_id, digests)
                claimed.stored.update((owner_id, digest) for digest in stored)
                found = verdicts.get(transaction, owner_id, digests)
                claimed.verdicts.update({(owner_id, d): verdict for d, verdict in found.items()})
        return claimed

    @staticmethod
    def _is_checked(lease: Lease, claimed: Claimed) -> bool:
        """Whether all its images were found good before."""
        images = [(lease.owner_id, reference.removeprefix("blob:")) for reference in lease.wanted]
        found = [claimed.verdicts.get(image) for image in images]
        return all(verdict is not None and verdict.code == OK for verdict in found)

    def _write_done(self, session: str, pending: dict[Future[Outcome], Lease]) -> None:
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
        self._write(session, arrived, failures)

    def _write(
        self,
        session: str,
        arrived: Sequence[tuple[Lease, list[str]]],
        failures: Sequence[Failure],
    ) -> None:
        self._findings.write(self._session, session)
        self._ends.write(session, arrived=arrived, failures=failures)
        self._wakes.wake(*{engine_queue(lease.model) for lease, _ in arrived})

    # ---- one item -------------------------------------------------------------------

    def _bring_in(self, lease: Lease, claimed: Claimed) -> Outcome:
        try:
            own = len(image_references(lease.request))
            wanted = lease.wanted
            images = [self._bring_in_one(lease.owner_id, ref, claimed) for ref in wanted[:own]]
            return images + self._bring_in_examples(lease, wanted[own:], claimed)
        except IdefiqError as error:
            return error
        except Exception:  # nobody's image may take a neighbour down with it
            log.exception("item %d could not be brought in", lease.item_id)
            return EngineError("intake failed unexpectedly; the log of the worker says how")

    def _bring_in_examples(self, lease: Lease, wanted: list[str], claimed: Claimed) -> list[str]:
        """Examples of the item's own, or those of its job, which a claim brings in once."""
        if not wanted or not lease.shares_examples:
            return [self._bring_in_one(lease.owner_id, ref, claimed) for ref in wanted]
        shared = claimed.examples
        with self._only(lease.owner_id, lease.job_id):
            if lease.job_id not in shared:
                try:
                    shared[lease.job_id] = [
                        self._bring_in_one(lease.owner_id, ref, claimed) for ref in wanted
                    ]
                except IdefiqError as error:
                    shared[lease.job_id] = error
        outcome = shared[lease.job_id]
        if isinstance(outcome, IdefiqError):
            raise outcome
        return outcome

    def _bring_in_one(self, owner_id: int, reference: str, claimed: Claimed) -> str:
        """Store and check one image; returns its `blob:` reference."""
        digest = reference.removeprefix("blob:") if reference.startswith("blob:") else None
        if digest and (verdict := claimed.verdicts.get((owner_id, digest))):
            return _accept(digest, verdict)
        try:
            data = self._sources.read(owner_id, reference)
        except ImageNotFound:
            if digest:
                with self._database.transaction() as transaction:
                    verdicts.forget(transaction, owner_id, digest)
            raise
        if digest is None:
            return self._keep(owner_id, data, reference, claimed)
        if (owner_id, digest) not in claimed.stored:  # sent straight to the store
            with self._database.transaction() as transaction:
                verdicts.add(transaction, owner_id, {digest: len(data)})
        return self._check(owner_id, digest, data, reference, claimed)

    def _keep(self, owner_id: int, data: bytes, reference: str, claimed: Claimed) -> str:
        """Store and check bytes, unless that was done."""
        digest = hashlib.sha256(data).hexdigest()
        with self._database.transaction() as transaction:
            verdicts.touch(transaction, owner_id, [digest], storing=True)
            known = verdicts.get(transaction, owner_id, [digest])
        if verdict := known.get(digest):
            return _accept(digest, verdict)
        self._store.put(image_key(owner_id, digest), io.BytesIO(data))
        failpoints.reach("stored", reference)
        with self._database.transaction() as transaction:
            verdicts.add(transaction, owner_id, {digest: len(data)})
        return self._check(owner_id, digest, data, reference, claimed)

    def _check(
        self, owner_id: int, digest: str, data: bytes, reference: str, claimed: Claimed
    ) -> str:
        """Check what is stored, unless that was done; an SVG is kept as it is drawn, too."""
        owned = (owner_id, digest)
        with self._only(owner_id, digest):
            verdict = claimed.verdicts.get(owned) or self._findings.get(owned)
            if verdict is None and svg.is_svg(data):
                drawn = self._in_child(self._checkers.draw, owner_id, digest, data)
                if isinstance(drawn, bytes):
                    # Its own verdict stays open: what models are shown is the drawing.
                    return self._keep(owner_id, drawn, reference, claimed)
                verdict = drawn
            if verdict is None:
                verdict = self._in_child(self._checkers.check, owner_id, digest, data)
            failpoints.reach("checked", reference)
            claimed.verdicts[owned] = verdict
            self._findings.note(owned, verdict)
        return _accept(digest, verdict)

    @contextmanager
    def _only(self, owner_id: int, name: str) -> Iterator[None]:
        """Let one thread at a time work on the same digest, or job, so that it is done once."""
        with self._checking_lock:
            turn = self._checking.setdefault((owner_id, name), Turn())
            turn.users += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._checking_lock:
                turn.users -= 1
                # Not before: whoever came now would not wait for those who wait already.
                if not turn.users:
                    del self._checking[owner_id, name]

    def _in_child(
        self, work: Callable[[bytes], T], owner_id: int, digest: str, data: bytes
    ) -> T | Verdict:
        try:
            return work(data)
        except CheckDied as error:
            with self._database.transaction() as transaction:
                deaths = verdicts.count_death(transaction, owner_id, digest)
            if deaths < MAX_DEATHS:
                raise
            return Verdict(ImagePoison.code, f"{error}, {deaths} times")


def _accept(digest: str, verdict: Verdict) -> str:
    if verdict.code != OK:
        raise BadImage(verdict)
    return f"blob:{digest}"


class BadImage(ItemError):
    """An image that was checked and found bad, perhaps long ago; carries that verdict's code."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.message or "the image is bad")
        self.code = verdict.code
