"""The generate stage: claim, load, generate, write, each at its own pace.

    claim ─▶ load (threads) ─▶ device: continuous batching, or `generate` ─▶ write
      ▲      up to `_max_in_hand` items between claim and write                │
      └───────────────────────── capacity for more ◀───────────────────────────┘

Items of different jobs and options are on the device together, and each answer is written as soon
as it is finished: a short one never waits for a long one. An item's lease is checked again when its
turn on the device has come, so a process that was suspended, or is about to end, starts nothing
that other workers may have claimed since.
"""

import contextlib
import hashlib
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import orjson

from db import answer_cache, failpoints, known_images
from db.blobs import BlobStore, image_key
from db.database import Database
from db.errors import (
    EngineError,
    IdefiqError,
    ImageMismatch,
    ImageNotFound,
    NotFound,
    StorageError,
)
from db.leases import Lease
from db.states import SourceApi, Stage
from workers.engine.device import Device, ItemOutcome
from workers.engine.schedule import ScheduledItem
from workers.engine.single_flight import SingleFlight, request_key
from workers.engine.writer import ItemEnd, Released, ResultWriter, StoredAnswer
from workers.families import alttext
from workers.families.base import Answer, Family, Prepared, storable
from workers.images import decode
from workers.lease_writer import LeaseWriter, claim_and_work
from workers.loop import ResidentLoop
from workers.notices import Notices
from workers.session import Session

#: Least number of items that are loaded besides those on the device.
MIN_BACKLOG = 4
#: How often a claim that waits for capacity checks whether the worker is stopping.
STOP_SECONDS = 0.2

#: How long an item waits for the same answer from another engine before it looks again.
WAIT_SECONDS = 1.0

log = logging.getLogger(__name__)


class Engine:
    """Does the work of an engine worker; its resident loop calls `run_once`.

    Args:
        batch_items: Most items in a claim.
        loaders: Threads that read and decode images.
    """

    def __init__(  # noqa: PLR0913 - the parts of a worker, wired in __main__
        self,
        database: Database,
        store: BlobStore,
        family: Family,
        device: Device,
        session: Session,
        lease_writer: LeaseWriter,
        notices: Notices,
        *,
        batch_items: int,
        loaders: int,
    ) -> None:
        self._database, self._store, self._family = database, store, family
        self._session, self._lease_writer, self._notices = session, lease_writer, notices
        self._batch_items = batch_items
        # Items on the device, and items that are loaded and wait for it.
        places = family.slot_engine.count if family.slot_engine else batch_items
        backlog = min(batch_items, max(places, MIN_BACKLOG))
        self._max_in_hand = places + backlog
        #: Least number of items that is worth a claim, which costs the same for one as for many.
        self._min_claim = max(1, backlog // 2)
        self._in_hand = 0
        self._capacity = threading.Condition()
        self._single_flight = SingleFlight(max(MIN_BACKLOG, self._max_in_hand // 4))
        self._lanes = loaders
        self._loaders = ThreadPoolExecutor(loaders, thread_name_prefix="load")
        self._device = device
        self._writer = ResultWriter(
            lease_writer, session, is_idle=lambda: device.is_idle, on_written=self._free_capacity
        )
        self._closing = False
        device.start(self._may_start, self._on_end)
        self.loop: ResidentLoop | None = None

    @property
    def _is_stopping(self) -> bool:
        return self._closing or (self.loop is not None and self.loop.stopping.is_set())

    def run_once(self) -> bool:
        """Claim due items and start them. Returns True if there may be more."""
        capacity = self._wait_for_capacity()
        if not capacity:
            return True
        return claim_and_work(
            self._database,
            self._session,
            self._start,
            stage=Stage.GENERATE,
            model=self._family.card.name,
            limit=capacity,
        )

    def wait_until_idle(self) -> None:
        """Wait until every claimed item has been written."""
        with self._capacity:
            self._capacity.wait_for(lambda: not self._in_hand)

    def close(self) -> None:
        """Finish the items on the device, release the others, and write all of them."""
        self._closing = True
        self._loaders.shutdown()
        self._device.close()
        self._writer.close()

    def mark_suspects(self) -> None:
        """Record which items the device hangs on; the process is about to end."""
        running = self._device.running
        log.critical("the device hangs on %s", [one.lease.item_id for one in running])
        for session in {one.session for one in running}:
            mine = [one.lease for one in running if one.session == session]
            self._lease_writer.mark_suspects(session, mine, alone=len(running) == 1)

    # ---- claim ------------------------------------------------------------------------

    def _wait_for_capacity(self) -> int:
        """Wait until a claim is worth it. Returns the number of items to claim; 0 to stop."""
        with self._capacity:
            while self._max_in_hand - self._in_hand < self._min_claim:
                if self._is_stopping:
                    return 0
                self._capacity.wait(STOP_SECONDS)
            return min(self._max_in_hand - self._in_hand, self._batch_items)

    def _free_capacity(self, count: int) -> None:
        with self._capacity:
            self._in_hand -= count
            self._capacity.notify_all()

    def _start(self, taken: Sequence[Lease], session: str) -> None:
        with self._capacity:
            self._in_hand += len(taken)
        try:
            due = self._needs_generation(taken, session)
        except BaseException:
            with self._capacity:
                self._in_hand -= len(taken)
            raise
        self._device.expect(len(due))
        waiting = deque(due)
        for _ in range(min(self._lanes, len(due))):
            self._loaders.submit(self._load_all, waiting, session)

    def _needs_generation(self, taken: Sequence[Lease], session: str) -> list[Lease]:
        """Return the items to generate; the others get or await the answer of an equal item."""
        keys = {lease.item_id: request_key(lease, self._family.card) for lease in taken}
        keyed = [(lease, key) for lease in taken if (key := keys[lease.item_id])]
        if not keyed:
            return list(taken)
        try:
            with self._database.transaction() as transaction:
                answer_cache.store_keys(transaction, keyed)
            with self._database.snapshot() as transaction:
                found = answer_cache.lookup(transaction, keyed, session)
        except StorageError as error:  # the cache only saves work
            log.warning("%s; answering without the answer cache", error)
            return list(taken)
        due = [lease for lease in taken if not keys[lease.item_id]]
        for lease, key in keyed:
            if answer := found.answers.get(lease.item_id):
                self._writer.put(lease, session, StoredAnswer({**answer, "cached": True}))
                continue
            may_lead = lease.item_id not in found.in_progress
            match self._single_flight.join(lease, session, key, may_lead=may_lead):
                case "leads":
                    due.append(lease)
                case "waits":
                    self._writer.put(lease, session, Released(WAIT_SECONDS))
        return due

    def _finish(self, lease: Lease, session: str, outcome: Answer | Released | IdefiqError) -> None:
        """End an item and the items that follow it with an equal request."""
        if isinstance(outcome, IdefiqError):
            self._writer.put(lease, session, outcome)
            if following := self._single_flight.fail(lease):
                self._start_next(*following)
            return
        followers = self._single_flight.complete(lease)
        try:
            own: ItemEnd = self._stored(lease, outcome)
        except EngineError as error:
            own = error
        except Exception:  # one answer must not fail its neighbours
            log.exception("the answer to item %d cannot be stored", lease.item_id)
            own = EngineError("the answer cannot be stored; see the worker's log")
        self._writer.put(lease, session, own)
        for other, held_by in followers:
            same = (
                StoredAnswer({**own.record, "cached": True})
                if isinstance(own, StoredAnswer)
                else own
            )
            self._writer.put(other, held_by, same)

    @staticmethod
    def _stored(lease: Lease, outcome: Answer | Released) -> StoredAnswer | Released:
        if isinstance(outcome, Released):
            return outcome
        record = outcome.record(lease.request["kind"])
        if not all(math.isfinite(score.logprob) for score in outcome.scores or ()):
            raise EngineError("the score of a label is not finite")
        orjson.dumps(record)  # must raise here, not in the transaction that neighbours share
        return StoredAnswer(record)

    def _start_next(self, lease: Lease, session: str) -> None:
        self._device.expect(1)
        try:
            self._loaders.submit(self._load, lease, session)
        except RuntimeError:  # the loaders were just shut down
            self._end(lease, session, Released())

    # ---- load -------------------------------------------------------------------------

    def _load_all(self, waiting: deque[Lease], session: str) -> None:
        while True:
            try:
                lease = waiting.popleft()
            except IndexError:  # the other threads have taken the rest
                return
            self._load(lease, session)

    def _load(self, lease: Lease, session: str) -> None:
        if self._is_stopping:
            self._end(lease, session, Released())
            return
        self._put(lease, session, lambda: self._prepare(lease))

    def _follow_up(self, one: ScheduledItem, answer: Answer) -> None:
        """Run an item's follow-up on its answer; see Prepared.follow_up."""
        follow_up = one.item.follow_up
        assert follow_up
        self._put(one.lease, one.session, lambda: follow_up(answer))

    def _put(self, lease: Lease, session: str, make: Callable[[], Prepared | Answer]) -> None:
        """Queue the item that `make` returns for the device, or write the answer it returns."""
        outcome: Prepared | ItemOutcome
        slot_engine = self._family.slot_engine
        try:
            outcome = make()
            failpoints.trigger("decoded", [lease])
            if isinstance(outcome, Prepared):
                fits = slot_engine is not None and slot_engine.accepts(outcome)
                cost = slot_engine.prefill_cost(outcome) if slot_engine and fits else outcome.tokens
                one = ScheduledItem(lease, session, outcome, fits, cost, lease.is_suspect)
                self._device.put(one)
                return
        except IdefiqError as error:
            outcome = error
        except Exception:  # one item must not fail its neighbours
            log.exception("item %d could not be prepared", lease.item_id)
            outcome = EngineError(
                "internal error while the item was prepared; see the worker's log"
            )
        self._end(lease, session, outcome)

    def _end(self, lease: Lease, session: str, outcome: Answer | Released | IdefiqError) -> None:
        """End an item that was announced with `Device.expect` and will not be queued."""
        self._finish(lease, session, outcome)
        self._device.expect(-1)

    def _prepare(self, lease: Lease) -> Prepared:
        target_size = self._family.target_size
        images = [
            decode(self._read(lease.owner_id, ref), target_size) for ref in lease.stored_references
        ]
        item = alttext.prepare(self._family, lease.request, images)
        if lease.source_api is SourceApi.CHAT:  # its caller may be streaming
            return replace(
                item, on_text=lambda text: self._notices.stream_text(lease.job_id, storable(text))
            )
        return item

    def _read(self, owner_id: int, reference: str) -> bytes:
        digest = reference.removeprefix("blob:")
        try:
            data = self._store.get(image_key(owner_id, digest))
        except NotFound as error:
            with self._database.transaction() as transaction:
                known_images.remove(transaction, owner_id, digest)
            raise ImageNotFound(f"{reference} is no longer in the blob store") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise ImageMismatch(f"the bytes of {reference} were changed after they were checked")
        return data

    # ---- answer -----------------------------------------------------------------------

    def _may_start(self, one: ScheduledItem) -> bool:
        return not self._is_stopping and self._session.holds(one.session)

    def _on_end(self, one: ScheduledItem, outcome: ItemOutcome | None) -> None:
        if isinstance(outcome, Answer) and one.item.follow_up:
            with contextlib.suppress(RuntimeError):  # if the loaders were just shut down
                if self._may_start(one):
                    self._loaders.submit(self._follow_up, one, outcome)
                    self._device.expect(1)
                    return
            outcome = None
        self._finish(one.lease, one.session, outcome or Released())
