"""Turns of upkeep: each owner does a page of its work, then the next owner has its turn.

look ─▶ steps by owner ─▶ a page of the owner whose turn was longest ago ─▶ of the next … ─▶ look

A step is a function that does everything at once, or a generator that yields after each page. So
an owner with much to do, a long import for example, keeps nobody else waiting for more than a page.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from db import logs
from db.tracing import work_span
from db.vocabulary.errors import QuotaExceeded, StorageError

#: What a turn may cost, in items: a page of an import. Steps that cost less share a turn.
TURN_COST = 2_000
#: Cost of a step beside that of its items.
STEP_COST = 50
#: Pages until upkeep does what is to be done for everybody.
MAX_PAGES = 25
#: A step yields this while it waits for something of its own.
WAITING: Literal["waiting"] = "waiting"
Page = Literal["waiting"] | None
Pages = Iterator[Page]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UpkeepStep:
    """Something that upkeep has to do for an owner.

    Attributes:
        owner_id: Whose turn it takes; 0 is the service itself.
        name: Which step.
        subject: The id of what it is done to.
        act: Does all of it, or returns a generator that yields after each page.
        cost: Of a page, in items.
        is_held: True if its progress is in the generator, and not in the database.
        traceparent: Of whoever has asked for it.
    """

    owner_id: int
    name: str
    subject: str
    act: Callable[[], Pages | None]
    cost: int = TURN_COST
    is_held: bool = False
    traceparent: str | None = None

    @property
    def key(self) -> tuple[int, str, str]:
        """What its turns are counted by; what is held is finished before the next begins."""
        return self.owner_id, self.name, "" if self.is_held else self.subject


class Turns:
    """Takes the steps that `look` finds.

    Args:
        look: Returns what there is to do, oldest first.
        stopping: Set when no page is to be begun any more.
    """

    def __init__(self, look: Callable[[], Sequence[UpkeepStep]], stopping: threading.Event) -> None:
        self._look, self._stopping = look, stopping
        self._pages = 0
        self._numbers = itertools.count(1)
        #: Numbers by step and by owner: of the last turn, or of the look that found it first.
        self._last: dict[tuple[int, str, str], int] = {}
        self._last_of: dict[int, int] = {}
        #: What is held, and of which subject, by step.
        self._held: dict[tuple[int, str, str], tuple[str, Pages]] = {}

    def run(self) -> bool:
        """Let everybody have turns. Returns True if there may be more to do."""
        self._pages = 0
        while self._may_go_on():
            by_owner = self._by_owner()
            progressed = [
                self._take_turn(steps, is_alone=len(by_owner) == 1)
                for steps in by_owner
                if self._may_go_on()
            ]
            if not any(progressed):
                return False
        return True

    def _may_go_on(self) -> bool:
        return self._pages < MAX_PAGES and not self._stopping.is_set()

    def _by_owner(self) -> list[list[UpkeepStep]]:
        """What there is to do, by owner; whose turn was longest ago comes first."""
        found = self._look()
        self._forget(found)
        for step in found:  # what is new comes after what waits already
            self._last.setdefault(step.key, next(self._numbers))
        by_owner: dict[int, list[UpkeepStep]] = {}
        for step in sorted(found, key=lambda step: self._last[step.key]):
            by_owner.setdefault(step.owner_id, []).append(step)
        return sorted(by_owner.values(), key=lambda steps: self._last_of.get(steps[0].owner_id, 0))

    def _forget(self, found: Sequence[UpkeepStep]) -> None:
        """Forget what is not to be done any more."""
        keys, owners = {step.key for step in found}, {step.owner_id for step in found}
        self._last = {key: number for key, number in self._last.items() if key in keys}
        self._last_of = {one: number for one, number in self._last_of.items() if one in owners}
        there = {(step.key, step.subject) for step in found}
        self._held = {key: held for key, held in self._held.items() if (key, held[0]) in there}

    def _take_turn(self, steps: Sequence[UpkeepStep], *, is_alone: bool) -> bool:
        """Take steps of an owner for a turn; those that fail cost nothing. True if any went on."""
        spent = 0
        self._last_of[steps[0].owner_id] = next(self._numbers)
        for step in steps:
            if (spent and spent + step.cost > TURN_COST) or not self._may_go_on():
                break
            if self._held.get(step.key, (step.subject,))[0] != step.subject:
                continue  # another of its kind is finished first
            self._last[step.key] = next(self._numbers)
            with (
                logs.bound(subject=step.subject),
                work_span(step.name, [step.traceparent], subject=step.subject),
            ):
                if did(lambda step=step: self._advance(step, is_alone)):  # type: ignore[misc]
                    spent += step.cost
        return spent > 0

    def _advance(self, step: UpkeepStep, is_alone: bool) -> bool:
        """Do a page of a step, or more as long as nobody else waits. False if it waits itself."""
        _, pages = self._held.pop(step.key, ("", None))
        pages = pages or step.act()
        self._pages += 1
        for page in pages or ():
            may_go_on = is_alone and page != WAITING and self._may_go_on()
            if may_go_on and not self._others_wait(step.owner_id):
                self._pages += 1
                continue
            if step.is_held:
                self._held[step.key] = step.subject, pages  # type: ignore[assignment]
            return page != WAITING
        return True

    def _others_wait(self, owner_id: int) -> bool:
        return any(step.owner_id != owner_id for step in self._look())


def did(step: Callable[[], bool | None]) -> bool:
    """Run a step. Returns True if it did something; False if it failed, or says so itself."""
    try:
        return step() is not False
    except (StorageError, QuotaExceeded) as error:
        log.warning("%s; retrying", error)
    except Exception:
        log.exception("a step of upkeep failed; retrying")
    return False
