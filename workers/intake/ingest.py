"""The ingest of one item: fetch its images, store them, and have a child check them.

reference ─▶ known digest ─────────────────────────▶ accepted, or what is wrong with it
          └─▶ fetch ─▶ store ─▶ check in a child ─┘
"""

import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from db import failpoints
from db.blobs.store import BlobStore, image_key
from db.images import known_images
from db.images.known_images import OK, CheckResult
from db.queue.lease import Lease
from db.sql.database import Database
from db.vocabulary.errors import (
    CheckDied,
    EngineError,
    FetchFailed,
    IdefiqError,
    ImagePoison,
    ImageUnreachable,
    ItemError,
)
from db.vocabulary.requests import blob_digests, image_references
from db.vocabulary.states import SourceApi
from workers import svg
from workers.intake.check import Checkers
from workers.intake.check_results import CheckResultBuffer, Owned
from workers.intake.fetch import HostBusy
from workers.intake.named_locks import NamedLocks
from workers.intake.source import Sources
from workers.metrics import step

#: Two children that die on the same bytes are no coincidence.
MAX_CRASHES = 2

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Examples:
    """Images of the examples that a job's items share: those taken in so far, or an error."""

    taken: list[str] = field(default_factory=list)
    error: IdefiqError | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """State shared by the items of one claim.

    Attributes:
        stored: Owners and digests of images that the database knew.
        check_results: Check results from the database, and those found since.
        examples: The examples that a job's items share, by job.
    """

    stored: set[Owned]
    check_results: dict[Owned, CheckResult]
    examples: dict[str, Examples] = field(default_factory=dict)


class ItemIngest:
    """Takes in the images of items. Thread-safe.

    Args:
        check_results: Gets what the checks have found.
    """

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        sources: Sources,
        checkers: Checkers,
        check_results: CheckResultBuffer,
    ) -> None:
        self._database, self._store = database, store
        self._sources, self._checkers = sources, checkers
        self._check_results = check_results
        # One thread at a time works on an image, or on the examples of a job.
        self._locks = NamedLocks()

    def look_up(self, taken: Sequence[Lease]) -> Claimed:
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
    def is_checked(lease: Lease, claimed: Claimed) -> bool:
        """True if all images of the item were found good before."""
        if lease.refusal:
            return False
        images = [
            (lease.owner_id, reference.removeprefix("blob:"))
            for reference in lease.intake_references
        ]
        found = [claimed.check_results.get(image) for image in images]
        return all(check_result is not None and check_result.code == OK for check_result in found)

    def take_in(self, lease: Lease, claimed: Claimed, taken: list[str]) -> list[str] | IdefiqError:
        """Take in all images of an item.

        Args:
            taken: Its images that are taken in; others are added, so that it goes on where it was.

        Returns:
            The references of its stored images, or what is wrong.

        Raises:
            HostBusy: The item has to wait for the turn of a host. Call again to go on.
        """
        if refusal := lease.refusal:
            return refusal
        try:
            wanted = lease.intake_references
            own = len(image_references(lease.request)) if lease.shares_examples else len(wanted)
            self._take_in_all(lease.owner_id, wanted[:own], claimed, taken)
            return taken + self._take_in_shared(lease, wanted[own:], claimed)
        except HostBusy:
            raise
        except FetchFailed as error:
            if lease.source_api is not SourceApi.CHAT:
                return error
            return ImageUnreachable(f"{lease.intake_references[len(taken)]}: {error}")
        except IdefiqError as error:
            return error
        except Exception:  # one item must not fail its neighbours
            log.exception("unexpected error in the intake of item %d", lease.item_id)
            return EngineError("internal error in intake; see the worker's log")

    def _take_in_shared(self, lease: Lease, wanted: list[str], claimed: Claimed) -> list[str]:
        """Take in the examples that a job's items share, once for the whole claim."""
        if not wanted:
            return []
        with self._locks.holding(lease.job_id):
            shared = claimed.examples.setdefault(lease.job_id, Examples())
            if not shared.error:
                try:
                    self._take_in_all(lease.owner_id, wanted, claimed, shared.taken)
                except IdefiqError as error:
                    shared.error = error
        if shared.error:
            raise shared.error
        return shared.taken

    def _take_in_all(
        self, owner_id: int, wanted: list[str], claimed: Claimed, taken: list[str]
    ) -> list[str]:
        """Take in the images that are not in `taken` yet, in their order."""
        while len(taken) < len(wanted):
            taken.append(self._take_in_image(owner_id, wanted[len(taken)], claimed))
        return taken

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
        self, work: Callable[[int, bytes], T], owner_id: int, digest: str, data: bytes
    ) -> T | CheckResult:
        try:
            with step("check"):
                return work(owner_id, data)
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
