"""Single flight: equal requests in one engine are generated once.

One item leads, the others follow: they keep their leases and get its answer. If it fails, the next
one leads. Answers of the past, and of other engines, are in db/queue/answer_cache.py.
"""

import hashlib
import json
import threading
from collections.abc import Sequence
from typing import Any, Literal

from db.queue.lease import Lease
from db.vocabulary.model_info import ModelInfo
from db.vocabulary.states import SourceApi

#: Fields of `alt_text` that no prompt contains: an image is described once for all its pages.
_FOR_PEOPLE = ("page", "source")


def request_key(lease: Lease, card: ModelInfo) -> str | None:
    """Digest of everything that an item's answer depends on; None if it must be generated anew.

    The digest covers the loaded model, the images, and the request merged over the checkpoint's
    defaults. Chat completions, and items sampled without a seed, are always generated.
    """
    if lease.source_api is SourceApi.CHAT or not card.fingerprint:
        return None
    options = {**card.defaults, **lease.request.get("options", {})}
    if options.get("do_sample") and "seed" not in options:
        return None
    asked: dict[str, Any] = {**lease.request, "options": options, "images": lease.stored_references}
    if "alt_text" in asked:
        asked["alt_text"] = {k: v for k, v in asked["alt_text"].items() if k not in _FOR_PEOPLE}
    if "examples" in asked:  # their images are among the stored references
        asked["examples"] = [{**one, "image": ""} for one in asked["examples"]]
    whole = json.dumps([card.fingerprint, asked], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


class SingleFlight:
    """Which items lead and which follow in this process. Thread-safe.

    Args:
        max_followers: Bound of all followers, so that other requests have capacity too.
    """

    def __init__(self, max_followers: int) -> None:
        self._lock, self._max_followers = threading.Lock(), max_followers
        #: Owner and key → items that follow.
        self._followers: dict[tuple[int, str], list[Lease]] = {}
        self._leaders: dict[int, tuple[int, str]] = {}  # by the id of the leading item

    def join(
        self, lease: Lease, key: str, *, may_lead: bool
    ) -> Literal["leads", "follows", "waits"]:
        """Follow the leader of an equal request, or lead, or wait if neither is allowed."""
        flight = lease.owner_id, key
        with self._lock:
            if flight in self._followers:
                if sum(map(len, self._followers.values())) >= self._max_followers:
                    return "waits"
                self._followers[flight].append(lease)
                return "follows"
            if not may_lead:
                return "waits"
            self._followers[flight] = []
            self._leaders[lease.item_id] = flight
            return "leads"

    def complete(self, lease: Lease) -> Sequence[Lease]:
        """Return and remove the followers of an item that is answered or released."""
        with self._lock:
            flight = self._leaders.pop(lease.item_id, None)
            return self._followers.pop(flight) if flight else []

    def fail(self, lease: Lease) -> Lease | None:
        """Make the first follower of a failed item the leader of the others, and return it."""
        with self._lock:
            flight = self._leaders.pop(lease.item_id, None)
            if flight is None:
                return None
            followers = self._followers[flight]
            if not followers:
                del self._followers[flight]
                return None
            following = followers.pop(0)
            self._leaders[following.item_id] = flight
            return following
