"""The intake stage: fetch, store and check the images of items, then pass the items to engines.

claim ─▶ all images known ─────────────────▶ advance ─▶ wake the engines
     └─▶ threads: ingest, see ingest.py ─┘   └─ bad: the item fails, others go on

Items in flight, threads and children are shared fairly between owners, see db/shares.py: an owner
whose servers are slow, or whose images take long to check, keeps no other waiting.
"""

import functools
import threading
from collections.abc import Sequence

from db import logs
from db.blobs.store import BlobStore
from db.queue.lease import Lease
from db.shares import Shares
from db.sql.database import Database
from db.tracing import work_span
from db.vocabulary.states import SourceApi
from workers.broker import Wakes
from workers.intake.check import Checkers
from workers.intake.check_results import CheckResultBuffer
from workers.intake.fetch import HostBusy
from workers.intake.ingest import Claimed, ItemIngest
from workers.intake.source import Sources
from workers.intake.threads import FairThreads, HostTurns
from workers.intake.writer import IntakeOutcome, IntakeWriter
from workers.lease_writer import LeaseWriter, claim_and_work
from workers.session import Session

#: Most items in one claim.
CLAIM_ITEMS = 64
#: Items in flight for each thread: many may wait for the turn of one host.
ITEMS_PER_THREAD = 8
#: An owner gets more items once it may have this share of all: a claim costs the same for one.
OWNER_REFILL_SHARE = 1 / 8
#: How often a claim that waits for room checks whether the worker is stopping.
ROOM_CHECK_SECONDS = 0.2


class Intake:
    """Does the work of an intake worker; its resident loop calls `run_once`.

    Args:
        threads: Threads that take items in; one owner alone uses half of them.
        hosts: Shared with the fetcher.
        stopping: Set when nothing is to be started any more.
        has_room: Set when there is room for owners that the last claim left out; wakes the loop.
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
        threads: int,
        hosts: HostTurns,
        stopping: threading.Event,
        has_room: threading.Event,
    ) -> None:
        self._database, self._session, self._sources = database, session, sources
        check_results = CheckResultBuffer(database, session)
        self._ingest = ItemIngest(database, store, sources, checkers, check_results)
        self._max_in_flight = threads * ITEMS_PER_THREAD
        self._in_flight: Shares[int] = Shares(self._max_in_flight)
        self._changed = threading.Condition()
        self._left_out: list[int] = []
        self._threads = FairThreads(threads, hosts, name="fetch")
        self._writer = IntakeWriter(
            lease_writer,
            check_results,
            session,
            wakes,
            in_flight=self._count,
            on_written=self._on_written,
        )
        self._stopping, self._has_room = stopping, has_room

    def run_once(self) -> bool:
        """Claim due items and start to take them in. Returns True if there may be more."""
        room = self._wait_for_room()
        return bool(room) and claim_and_work(
            self._database,
            self._session,
            self._start,
            model=None,
            limit=room,
            without=self._left_out,
        )

    def wait_until_idle(self) -> None:
        """Wait until every claimed item has been written."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight.held)

    def close(self) -> None:
        """Finish what has begun, release the rest, and write all of it."""
        self._stopping.set()
        self._threads.close()
        self._writer.close()

    # ---- shares -----------------------------------------------------------------------

    def _wait_for_room(self) -> int:
        """Wait for room. Returns the number of items to claim; 0 to stop."""
        with self._changed:
            while not self._in_flight.free:
                if self._stopping.is_set():
                    return 0
                self._changed.wait(ROOM_CHECK_SECONDS)
            self._left_out = [one for one in self._in_flight.held if not self._may_refill(one)]
            # Half, so that room is left for whoever comes next.
            return min(CLAIM_ITEMS, (self._in_flight.free + 1) // 2)

    def _may_refill(self, owner_id: int) -> bool:
        return self._in_flight.allows(owner_id, int(self._max_in_flight * OWNER_REFILL_SHARE))

    def _count(self) -> int:
        with self._changed:
            return self._in_flight.held.total()

    def _on_written(self, written: Sequence[Lease]) -> None:
        with self._changed:
            for lease in written:
                self._in_flight.give_back(lease.owner_id)
            if any(self._may_refill(owner_id) for owner_id in self._left_out):
                self._has_room.set()
            self._changed.notify_all()

    def _start(self, taken: Sequence[Lease]) -> None:
        claimed = self._ingest.look_up(taken)
        known = [lease for lease in taken if self._ingest.is_checked(lease, claimed)]
        self._writer.write([(lease, lease.intake_references) for lease in known])
        arrived = {lease.item_id for lease in known}
        new = [lease for lease in taken if lease.item_id not in arrived]
        with self._changed:
            for lease in new:
                self._in_flight.take(lease.owner_id)
        for lease in new:
            wanted = lease.intake_references
            self._threads.put(
                lease.owner_id,
                functools.partial(self._take_in, lease, claimed, []),
                host=self._sources.host_of(wanted[0]) if wanted else None,
                is_urgent=lease.source_api is SourceApi.CHAT,
            )

    # ---- one item -------------------------------------------------------------------

    def _take_in(self, lease: Lease, claimed: Claimed, taken: list[str]) -> str | None:
        """Take in an item's images and queue its end.

        Args:
            taken: Its images that are taken in; others are added.

        Returns:
            The host for whose turn the item has to wait, or None if it has ended.
        """
        outcome: IntakeOutcome = None
        if not self._stopping.is_set() and self._session.holds(lease.session_id):
            with logs.bound(**lease.ids), work_span("take in", [lease.traceparent], **lease.ids):
                try:
                    outcome = self._ingest.take_in(lease, claimed, taken)
                except HostBusy as busy:
                    return busy.host
        self._writer.put(lease, outcome)
        return None
