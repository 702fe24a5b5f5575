"""The generate stage: claim, load, answer, write, each at its own pace.

    claim ─▶ load (threads) ─▶ device: slots, or batches ─▶ write
      ▲      up to `in hand` items between claim and write       │
      └──────────────────── room for more ◀──────────────────────┘

Items of different jobs and options are on the device side by side, and each is written soon after
its answer is there: a short one never waits for a long one. An item's lease is looked at again
when its turn on the device has come: a process that was stopped for a while, or is about to end,
starts nothing that others may have by now.
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

from db import failpoints, reuse, verdicts
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
from db.states import Origin, Stage
from workers.ends import LeaseEnds, claim_and_work
from workers.engine.device import Device, Outcome
from workers.engine.reuse import Flights, key_of
from workers.engine.schedule import Loaded
from workers.engine.writer import Back, End, Ready, Writer
from workers.families import alttext
from workers.families.base import Answer, Family, Prepared, storable
from workers.images import decode
from workers.loop import ResidentLoop
from workers.notices import Notices
from workers.session import Session

#: So many items at least are loaded beside those that are being answered.
LEAST_BACKLOG = 4
#: How often a claim that waits for room looks whether the worker is to stop.
STOP_SECONDS = 0.2

#: How long an item waits that another engine is answering.
WAIT_SECONDS = 1.0

log = logging.getLogger(__name__)


class Engine:
    """Does the work of an engine worker; `look` is what its resident loop runs.

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
        ends: LeaseEnds,
        notices: Notices,
        *,
        batch_items: int,
        loaders: int,
    ) -> None:
        self._database, self._store, self._family = database, store, family
        self._session, self._ends, self._notices = session, ends, notices
        self._batch_items = batch_items
        #: So many are being answered, and so many wait for a free place.
        places = family.slot_engine.count if family.slot_engine else batch_items
        backlog = min(batch_items, max(places, LEAST_BACKLOG))
        self._most_in_hand = places + backlog
        #: A claim costs the same for one item as for many.
        self._worth_a_claim = max(1, backlog // 2)
        self._in_hand = 0
        self._room = threading.Condition()
        self._flights = Flights(max(LEAST_BACKLOG, self._most_in_hand // 4))
        self._lanes = loaders
        self._loaders = ThreadPoolExecutor(loaders, thread_name_prefix="load")
        self._device = device
        self._writer = Writer(
            ends, session, is_idle=lambda: device.is_idle, on_written=self._make_room
        )
        self._closing = False
        device.start(self._may_start, self._on_end)
        self.loop: ResidentLoop | None = None

    @property
    def _is_stopping(self) -> bool:
        return self._closing or (self.loop is not None and self.loop.stopping.is_set())

    def look(self) -> bool:
        """Claim what is due and begin it. Returns whether there may be more."""
        room = self._wait_for_room()
        if not room:
            return True
        return claim_and_work(
            self._database,
            self._session,
            self._begin,
            stage=Stage.GENERATE,
            model=self._family.card.name,
            limit=room,
        )

    def wait_until_idle(self) -> None:
        """Wait until everything that was claimed has been written."""
        with self._room:
            self._room.wait_for(lambda: not self._in_hand)

    def close(self) -> None:
        """Finish what is on the device, give back the rest, and write it all."""
        self._closing = True
        self._loaders.shutdown()
        self._device.close()
        self._writer.close()

    def blame(self) -> None:
        """Note in the record which items the device hangs on; the process is about to end."""
        running = self._device.running
        log.critical("the device hangs on %s", [one.lease.item_id for one in running])
        for session in {one.session for one in running}:
            mine = [one.lease for one in running if one.session == session]
            self._ends.blame(session, mine, alone=len(running) == 1)

    # ---- claim ------------------------------------------------------------------------

    def _wait_for_room(self) -> int:
        """How many items to claim, once that is worth a claim; 0 when the worker is to stop."""
        with self._room:
            while self._most_in_hand - self._in_hand < self._worth_a_claim:
                if self._is_stopping:
                    return 0
                self._room.wait(STOP_SECONDS)
            return min(self._most_in_hand - self._in_hand, self._batch_items)

    def _make_room(self, count: int) -> None:
        with self._room:
            self._in_hand -= count
            self._room.notify_all()

    def _begin(self, taken: Sequence[Lease], session: str) -> None:
        with self._room:
            self._in_hand += len(taken)
        try:
            due = self._not_answered(taken, session)
        except BaseException:
            with self._room:
                self._in_hand -= len(taken)
            raise
        self._device.expect(len(due))
        waiting = deque(due)
        for _ in range(min(self._lanes, len(due))):
            self._loaders.submit(self._load_all, waiting, session)

    def _not_answered(self, taken: Sequence[Lease], session: str) -> list[Lease]:
        """Items of a claim that nobody else answers; the others are seen to."""
        keys = {lease.item_id: key_of(lease, self._family.card) for lease in taken}
        keyed = [(lease, key) for lease in taken if (key := keys[lease.item_id])]
        if not keyed:
            return list(taken)
        try:
            with self._database.transaction() as transaction:
                reuse.note(transaction, keyed)
            with self._database.snapshot() as transaction:
                found = reuse.look(transaction, keyed, session)
        except StorageError as error:  # it only saves work
            log.warning("%s; everything is answered anew", error)
            return list(taken)
        due = [lease for lease in taken if not keys[lease.item_id]]
        for lease, key in keyed:
            if answer := found.answers.get(lease.item_id):
                self._writer.put(lease, session, Ready({**answer, "cached": True}))
                continue
            may_lead = lease.item_id not in found.under_way
            match self._flights.join(lease, session, key, may_lead=may_lead):
                case "leads":
                    due.append(lease)
                case "waits":
                    self._writer.put(lease, session, Back(WAIT_SECONDS))
        return due

    def _finish(self, lease: Lease, session: str, outcome: Answer | Back | IdefiqError) -> None:
        """End an item, and see to those that ask for the same."""
        if isinstance(outcome, IdefiqError):
            self._writer.put(lease, session, outcome)
            if following := self._flights.fail(lease):
                self._begin_next(*following)
            return
        followers = self._flights.land(lease)
        try:
            own: End = self._stored(lease, outcome)
        except EngineError as error:
            own = error
        except Exception:  # nobody's answer may take a neighbour down with it
            log.exception("the answer to item %d cannot be stored", lease.item_id)
            own = EngineError("the answer cannot be stored; see the worker's log")
        self._writer.put(lease, session, own)
        for other, held_by in followers:
            same = Ready({**own.record, "cached": True}) if isinstance(own, Ready) else own
            self._writer.put(other, held_by, same)

    @staticmethod
    def _stored(lease: Lease, outcome: Answer | Back) -> Ready | Back:
        if isinstance(outcome, Back):
            return outcome
        record = outcome.record(lease.request["kind"])
        if not all(math.isfinite(score.logprob) for score in outcome.scores or ()):
            raise EngineError("a label's likelihood is no number")
        orjson.dumps(record)  # what JSON cannot hold must not reach its neighbours' transaction
        return Ready(record)

    def _begin_next(self, lease: Lease, session: str) -> None:
        self._device.expect(1)
        try:
            self._loaders.submit(self._load, lease, session)
        except RuntimeError:  # the loaders have just been shut down
            self._end(lease, session, Back())

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
            self._end(lease, session, Back())
            return
        self._put(lease, session, lambda: self._prepare(lease))

    def _go_on(self, one: Loaded, answer: Answer) -> None:
        """Do what is to be done with an answer before it is one; see Prepared.then."""
        then = one.item.follow_up
        assert then
        self._put(one.lease, one.session, lambda: then(answer))

    def _put(self, lease: Lease, session: str, make: Callable[[], Prepared | Answer]) -> None:
        """Hand what `make` returns to the device, or to the writer."""
        outcome: Prepared | Outcome
        slots = self._family.slot_engine
        try:
            outcome = make()
            failpoints.reach("decoded", [lease])
            if isinstance(outcome, Prepared):
                fits = slots is not None and slots.accepts(outcome)
                cost = slots.prefill_cost(outcome) if slots and fits else outcome.tokens
                one = Loaded(lease, session, outcome, fits, cost, lease.is_suspect)
                self._device.put(one)
                return
        except IdefiqError as error:
            outcome = error
        except Exception:  # nobody's item may take a neighbour down with it
            log.exception("item %d could not be prepared", lease.item_id)
            outcome = EngineError("preparing the item failed unexpectedly; see the worker's log")
        self._end(lease, session, outcome)

    def _end(self, lease: Lease, session: str, outcome: Answer | Back | IdefiqError) -> None:
        """What was expected does not come to the device."""
        self._finish(lease, session, outcome)
        self._device.expect(-1)

    def _prepare(self, lease: Lease) -> Prepared:
        wanted = self._family.target_size
        images = [decode(self._read(lease.owner_id, ref), wanted) for ref in lease.shown]
        item = alttext.prepare(self._family, lease.request, images)
        if lease.origin is Origin.CHAT:  # somebody may be reading along
            return replace(
                item, on_text=lambda text: self._notices.said(lease.job_id, storable(text))
            )
        return item

    def _read(self, owner_id: int, reference: str) -> bytes:
        digest = reference.removeprefix("blob:")
        try:
            data = self._store.get(image_key(owner_id, digest))
        except NotFound as error:
            with self._database.transaction() as transaction:
                verdicts.forget(transaction, owner_id, digest)
            raise ImageNotFound(f"{reference} is not in the blob store any more") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise ImageMismatch(f"the bytes of {reference} were changed after they were checked")
        return data

    # ---- answer -----------------------------------------------------------------------

    def _may_start(self, one: Loaded) -> bool:
        return not self._is_stopping and self._session.holds(one.session)

    def _on_end(self, one: Loaded, outcome: Outcome | None) -> None:
        if isinstance(outcome, Answer) and one.item.follow_up:
            with contextlib.suppress(RuntimeError):  # when the loaders have just been shut down
                if self._may_start(one):
                    self._loaders.submit(self._go_on, one, outcome)
                    self._device.expect(1)
                    return
            outcome = None
        self._finish(one.lease, one.session, outcome or Back())
