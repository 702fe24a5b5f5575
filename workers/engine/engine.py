"""The generate stage: claim, load, generate, write, each at its own pace.

    claim ─▶ load (threads) ─▶ device: continuous batching, or `generate` ─▶ write
      ▲      up to `_max_in_flight` items between claim and write              │
      └───────────────────────── capacity for more ◀───────────────────────────┘

Items of different jobs and options are on the device together, and each answer is written as soon
as it is finished: a short one never waits for a long one. An item's lease is checked again when its
turn on the device has come, so a process that was suspended, or is about to end, starts nothing
that other workers may have claimed since.
"""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from db import failpoints, logs
from db.blobs.store import BlobStore
from db.queue import answer_cache
from db.queue.lease import Lease
from db.sql.database import Database
from db.vocabulary.errors import EngineError, IdefiqError, StorageError
from workers.decoding import metrics
from workers.engine.device import Device
from workers.engine.engine_info import export_engine
from workers.engine.halving import ItemOutcome
from workers.engine.in_flight import InFlight, ItemStep
from workers.engine.item_loader import ItemLoader
from workers.engine.schedule import ScheduledItem
from workers.engine.single_flight import SingleFlight, request_key
from workers.engine.writer import (
    ItemEnd,
    Released,
    ResultWriter,
    StoredAnswer,
    stored_answer,
)
from workers.families.base import Answer, Family, Prepared
from workers.lease_writer import LeaseWriter, claim_and_work
from workers.metrics import step
from workers.notices import Notices
from workers.session import Session

#: Least number of items that are loaded besides those on the device.
MIN_BACKLOG = 4
#: How often a claim that waits for capacity checks whether the worker is stopping.
STOP_CHECK_SECONDS = 0.2

#: How long an item waits for the same answer from another engine before it looks again.
EQUAL_ANSWER_SECONDS = 1.0

log = logging.getLogger(__name__)


class Engine:
    """Does the work of an engine worker; its resident loop calls `run_once`.

    Args:
        batch_items: Most items in a claim.
        loaders: Threads that read and decode images.
        pixels: Most pixels that they decode at the same time.
        in_flight: Shared with the device.
        stopping: Set when nothing is to be started any more.
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
        pixels: int,
        in_flight: InFlight,
        stopping: threading.Event,
    ) -> None:
        self._database, self._family = database, family
        self._session, self._lease_writer = session, lease_writer
        self._item_loader = ItemLoader(database, store, family, notices, pixels)
        self._batch_items = batch_items
        # Items on the device, and items that are loaded and wait for it.
        places = family.slot_engine.count if family.slot_engine else batch_items
        backlog = min(batch_items, max(places, MIN_BACKLOG))
        self._max_in_flight = places + backlog
        #: Least number of items that is worth a claim, which costs the same for one as for many.
        self._min_claim = max(1, backlog // 2)
        self._in_flight, self._stopping = in_flight, stopping
        self._single_flight = SingleFlight(max(MIN_BACKLOG, self._max_in_flight // 4))
        self._lanes = loaders
        self._loaders = ThreadPoolExecutor(loaders, thread_name_prefix="load")
        self._device = device
        self._writer = ResultWriter(
            lease_writer, session, in_flight, is_idle=lambda: device.is_idle
        )
        device.start(self._may_start, self._on_end)
        export_engine(family, in_flight)

    def run_once(self) -> bool:
        """Claim due items and start them. Returns True if there may be more."""
        capacity = self._wait_for_capacity()
        if not capacity:
            return True
        return claim_and_work(
            self._database,
            self._session,
            self._start,
            model=self._family.card.name,
            limit=capacity,
        )

    def wait_until_idle(self) -> None:
        """Wait until every claimed item has been written."""
        with self._in_flight.removed:
            self._in_flight.removed.wait_for(lambda: not len(self._in_flight))

    def close(self) -> None:
        """Finish the items on the device, release the others, and write all of them."""
        self._stopping.set()
        self._loaders.shutdown()
        self._device.close()
        self._writer.close()

    def mark_suspects(self) -> None:
        """Record which items the device hangs on; the process is about to end."""
        running = self._device.running
        log.critical("the device hangs on %s", [one.lease.item_id for one in running])
        self._lease_writer.mark_suspects([one.lease for one in running])

    # ---- claim ------------------------------------------------------------------------

    def _wait_for_capacity(self) -> int:
        """Wait until a claim is worth it. Returns the number of items to claim; 0 to stop."""
        with self._in_flight.removed:
            while self._max_in_flight - len(self._in_flight) < self._min_claim:
                if self._stopping.is_set():
                    return 0
                self._in_flight.removed.wait(STOP_CHECK_SECONDS)
            return min(self._max_in_flight - len(self._in_flight), self._batch_items)

    def _start(self, taken: Sequence[Lease]) -> None:
        self._in_flight.add(taken)
        try:
            due = self._needs_generation(taken)
        except BaseException:
            self._in_flight.remove(taken)
            raise
        self._in_flight.move(due, ItemStep.PREPARING)
        waiting = deque(due)
        for _ in range(min(self._lanes, len(due))):
            self._loaders.submit(self._load_all, waiting)

    def _needs_generation(self, taken: Sequence[Lease]) -> list[Lease]:
        """Return the items to generate; the others get or await the answer of an equal item."""
        keys = {lease.item_id: request_key(lease, self._family.card) for lease in taken}
        keyed = [(lease, key) for lease in taken if (key := keys[lease.item_id])]
        if not keyed:
            return list(taken)
        try:
            with self._database.transaction() as transaction:
                answer_cache.store_keys(transaction, keyed)
            with self._database.snapshot() as transaction:
                found = answer_cache.lookup(transaction, keyed)
        except StorageError as error:  # the cache only saves work
            log.warning("%s; answering without the answer cache", error)
            return list(taken)
        due = [lease for lease in taken if not keys[lease.item_id]]
        for lease, key in keyed:
            answer = found.answers.get(lease.item_id)
            metrics.count_lookup("answers", is_hit=bool(answer))
            if answer:
                self._writer.put(lease, StoredAnswer({**answer, "cached": True}))
                continue
            may_lead = lease.item_id not in found.in_progress
            match self._single_flight.join(lease, key, may_lead=may_lead):
                case "leads":
                    due.append(lease)
                case "waits":
                    self._writer.put(lease, Released(EQUAL_ANSWER_SECONDS))
        return due

    def _finish(
        self,
        lease: Lease,
        outcome: Answer | Released | IdefiqError,
        device_seconds: float = 0.0,
    ) -> None:
        """End an item and the items that follow it with an equal request."""
        if isinstance(outcome, IdefiqError):
            self._writer.put(lease, outcome)
            if following := self._single_flight.fail(lease):
                self._start_next(following)
            return
        followers = self._single_flight.complete(lease)
        try:
            own: ItemEnd = (
                outcome
                if isinstance(outcome, Released)
                else stored_answer(lease, outcome, self._family.card, device_seconds)
            )
        except EngineError as error:
            own = error
        except Exception:  # one answer must not fail its neighbours
            with logs.bound(**lease.ids):
                log.exception("the answer to item %d cannot be stored", lease.item_id)
            own = EngineError("the answer cannot be stored; see the worker's log")
        self._writer.put(lease, own)
        for other in followers:
            same = (
                StoredAnswer({**own.record, "cached": True})
                if isinstance(own, StoredAnswer)
                else own
            )
            self._writer.put(other, same)

    def _start_next(self, lease: Lease) -> None:
        self._in_flight.move([lease], ItemStep.PREPARING)
        try:
            self._loaders.submit(self._load, lease)
        except RuntimeError:  # the loaders were just shut down
            self._finish(lease, Released())

    # ---- load -------------------------------------------------------------------------

    def _load_all(self, waiting: deque[Lease]) -> None:
        while True:
            try:
                lease = waiting.popleft()
            except IndexError:  # the other threads have taken the rest
                return
            self._load(lease)

    def _load(self, lease: Lease) -> None:
        if self._stopping.is_set():
            self._finish(lease, Released())
            return
        with logs.bound(**lease.ids), step("load", [lease], **lease.ids):
            self._put(lease, lambda: self._item_loader.prepare(lease))

    def _follow_up(self, one: ScheduledItem, answer: Answer) -> None:
        """Run an item's follow-up on its answer; see Prepared.follow_up."""
        follow_up = one.item.follow_up
        assert follow_up
        self._put(one.lease, lambda: follow_up(answer), one.device_seconds)

    def _put(
        self,
        lease: Lease,
        make: Callable[[], Prepared | Answer],
        device_seconds: float = 0.0,
    ) -> None:
        """Queue the item that `make` returns for the device, or write the answer it returns."""
        outcome: Prepared | ItemOutcome
        slot_engine = self._family.slot_engine
        try:
            outcome = make()
            failpoints.trigger("decoded", [lease])
            if isinstance(outcome, Prepared):
                fits = slot_engine is not None and slot_engine.accepts(outcome)
                cost = slot_engine.prefill_cost(outcome) if slot_engine and fits else outcome.tokens
                one = ScheduledItem(lease, outcome, fits, cost, lease.is_suspect)
                one.device_seconds = device_seconds
                self._device.put(one)
                return
        except IdefiqError as error:
            outcome = error
        except Exception:  # one item must not fail its neighbours
            log.exception("item %d could not be prepared", lease.item_id)
            outcome = EngineError(
                "internal error while the item was prepared; see the worker's log"
            )
        self._finish(lease, outcome, device_seconds)

    # ---- answer -----------------------------------------------------------------------

    def _may_start(self, one: ScheduledItem) -> bool:
        return not self._stopping.is_set() and self._session.holds(one.lease.session_id)

    def _on_end(self, one: ScheduledItem, outcome: ItemOutcome | None) -> None:
        if isinstance(outcome, Answer) and one.item.follow_up:
            with contextlib.suppress(RuntimeError):  # if the loaders were just shut down
                if self._may_start(one):
                    self._in_flight.move([one.lease], ItemStep.PREPARING)
                    self._loaders.submit(self._follow_up, one, outcome)
                    return
            outcome = None
        self._finish(one.lease, outcome or Released(), one.device_seconds)
