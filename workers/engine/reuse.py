"""Which items ask for the same, and who of them is answered for all.

One leads, the others follow: they keep their leases and get its answer. When it fails, the next
one leads. What was answered before, or is being answered by another engine, the record knows.
"""

import hashlib
import json
import threading
from collections.abc import Sequence
from typing import Any, Literal

from db.cards import ModelCard
from db.leases import Lease
from db.states import Origin

#: What of alternative text a model is not told: the same picture is asked about once for all pages.
_FOR_PEOPLE = ("page", "source")


def key_of(lease: Lease, card: ModelCard) -> str | None:
    """What an item asks for, as a digest; None for what is to be answered each time.

    Equal keys have equal answers: the model as it was loaded, the pictures, and the whole request
    with the checkpoint's defaults under it. Conversations are answered as they come, and so is
    what is drawn without a seed.
    """
    if lease.origin is Origin.CHAT or not card.fingerprint:
        return None
    options = {**card.defaults, **lease.request.get("options", {})}
    if options.get("do_sample") and "seed" not in options:
        return None
    asked: dict[str, Any] = {**lease.request, "options": options, "images": lease.shown}
    if "alt_text" in asked:
        asked["alt_text"] = {k: v for k, v in asked["alt_text"].items() if k not in _FOR_PEOPLE}
    if "examples" in asked:  # their pictures are among those that are shown
        asked["examples"] = [{**one, "image": ""} for one in asked["examples"]]
    whole = json.dumps([card.fingerprint, asked], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


class Flights:
    """Who leads and who follows in this process; used from several threads.

    Args:
        most_followers: In all; the places of more are for items that ask for something else.
    """

    def __init__(self, most_followers: int) -> None:
        self._lock, self._most_followers = threading.Lock(), most_followers
        #: Key and owner → items that follow, with the sessions that hold them.
        self._followers: dict[tuple[int, str], list[tuple[Lease, str]]] = {}
        self._led: dict[int, tuple[int, str]] = {}  # by the id of the item that leads

    def join(
        self, lease: Lease, session: str, key: str, *, may_lead: bool
    ) -> Literal["leads", "follows", "waits"]:
        """Follow who leads, or lead, or wait until that is possible."""
        name = lease.owner_id, key
        with self._lock:
            if name in self._followers:
                if sum(map(len, self._followers.values())) >= self._most_followers:
                    return "waits"
                self._followers[name].append((lease, session))
                return "follows"
            if not may_lead:
                return "waits"
            self._followers[name] = []
            self._led[lease.item_id] = name
            return "leads"

    def land(self, lease: Lease) -> Sequence[tuple[Lease, str]]:
        """The followers of an item that has its answer, or is given back; they follow no more."""
        with self._lock:
            name = self._led.pop(lease.item_id, None)
            return self._followers.pop(name) if name else []

    def fail(self, lease: Lease) -> tuple[Lease, str] | None:
        """Let the first follower of an item that has failed lead the others. Returns it."""
        with self._lock:
            name = self._led.pop(lease.item_id, None)
            if name is None:
                return None
            followers = self._followers[name]
            if not followers:
                del self._followers[name]
                return None
            following = followers.pop(0)
            self._led[following[0].item_id] = name
            return following
