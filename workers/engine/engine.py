"""The generate stage: claim, load, generate, write; several lanes take turns on the device.

    lane 1   claim ─ load ─ ▓ generate ▓ ─ write ─ claim ─ …
    lane 2           claim ─ load ─ wait ─ ▓ generate ▓ ─ write

A lane looks at its leases again when its turn on the device has come: a process that was
stopped for a while, or is about to end, starts nothing that others may have by now.
"""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from db import failpoints, verdicts
from db.blobs import BlobStore, image_key
from db.database import Database
from db.errors import EngineError, IdefiqError, ImageMismatch, ImageNotFound, NotFound
from db.leases import Failure, Lease
from db.states import Origin, Stage
from workers.ends import LeaseEnds, claim_and_work
from workers.engine.batching import plan
from workers.engine.device import Device
from workers.families.base import Answer, Family, Prepared, storable
from workers.images import decode
from workers.loop import ResidentLoop
from workers.notices import Notices
from workers.session import Session

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A lease with its item ready for the device."""

    lease: Lease
    item: Prepared


def _batch_key(one: Loaded) -> tuple[int, str]:
    """What may share a batch; an item that has cost a worker before goes last and alone."""
    suspect = one.lease.item_id if one.lease.is_suspect else 0
    return suspect, one.lease.options_digest


class Engine:
    """Does the work of an engine worker; `look` is what its resident loop runs.

    Args:
        batch_items: Most items in a batch, and in a claim.
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
        self._database, self._store = database, store
        self._family, self._device = family, device
        self._session, self._ends, self._notices = session, ends, notices
        self._batch_items = batch_items
        self._loaders = ThreadPoolExecutor(loaders, thread_name_prefix="load")
        self._turn: tuple[str, Sequence[Loaded]] = ("", [])
        self.loop: ResidentLoop | None = None

    def look(self) -> bool:
        """Claim and answer what is due. Returns whether there may be more."""
        return claim_and_work(
            self._database,
            self._session,
            self._work,
            stage=Stage.GENERATE,
            model=self._family.card.name,
            limit=self._batch_items,
        )

    def _work(self, taken: Sequence[Lease], session: str) -> None:
        if len(taken) == self._batch_items and self.loop:
            self.loop.wake()  # another lane can load while this one generates
        loaded = self._load(taken, session)
        failpoints.reach("decoded", taken)
        batches = plan(
            loaded,
            like=_batch_key,
            tokens=lambda one: one.item.tokens,
            max_items=self._batch_items,
        )
        for batch in batches:
            self._answer(batch, session)

    def close(self) -> None:
        """End the loaders and the device."""
        self._loaders.shutdown()
        self._device.close()

    def blame(self) -> None:
        """Note in the record which items the device hangs on; the process is about to end."""
        session, batch = self._turn
        running = self._device.running
        on_device = [one.lease for one in batch if any(one.item is item for item in running)]
        log.critical("the device hangs on %s", [lease.item_id for lease in on_device])
        self._ends.blame(session, on_device)

    def _may_start(self, session: str) -> bool:
        stopping = self.loop is not None and self.loop.stopping.is_set()
        return not stopping and self._session.holds(session)

    def _load(self, taken: Sequence[Lease], session: str) -> list[Loaded]:
        loaded: list[Loaded] = []
        failures: list[Failure] = []
        for lease, outcome in zip(taken, self._loaders.map(self._load_one, taken), strict=True):
            if isinstance(outcome, Prepared):
                loaded.append(Loaded(lease, outcome))
            else:
                failures.append(Failure(lease, outcome))
        self._ends.write(session, failures=failures)
        return loaded

    def _load_one(self, lease: Lease) -> Prepared | IdefiqError:
        try:
            images = [decode(self._read(lease.owner_id, ref)) for ref in lease.shown]
            item = self._family.prepare(lease.request, images)
        except IdefiqError as error:
            return error
        except Exception:  # nobody's item may take a neighbour down with it
            log.exception("item %d could not be prepared", lease.item_id)
            return EngineError("preparing the item failed unexpectedly; see the worker's log")
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

    def _answer(self, batch: Sequence[Loaded], session: str) -> None:
        def may_start() -> bool:
            self._turn = session, batch
            return self._may_start(session)

        outcomes = self._device.run([one.item for one in batch], may_start)
        if outcomes is None:
            self._ends.release(session, [one.lease for one in batch])
            return
        failpoints.reach("generated", batch)
        answers, failures = [], []
        for one, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Answer):
                answers.append((one.lease, outcome.record(one.lease.request["kind"])))
            else:
                failures.append(Failure(one.lease, outcome))
        self._ends.write(session, answers=answers, failures=failures)
