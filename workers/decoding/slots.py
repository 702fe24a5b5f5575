"""Requests that join and leave while others are being answered.

    slot 0   ▓▓▓▓ a red square ▏▓▓▓ blue ▏▓▓▓▓▓▓ two circles and
    slot 1   ▓▓▓▓▓▓ the small one is on the left ▏▓▓ yes ▏
    slot 2   ▓▓ no ▏▓▓▓▓▓ three ▏▓▓▓▓ a black triangle above

`admit` reads prompts (▓), all that join together in one pass; `step` says the next token of every
slot. Nobody waits for the longest answer, and nothing is padded. (Yu et al. 2022, "Orca".)

Where shapes are fixed, a step always computes all slots, so that no answer depends on how many
others there are, to the last bit, and so that a GPU can replay the step without being told it
anew. Otherwise the slots in use are kept together and only those are computed.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LogitsProcessorList

from workers.decoding.cache import Room, SlotCache
from workers.decoding.choosing import Chooser
from workers.decoding.kept import Kept
from workers.decoding.prompt import Picture, Prompt
from workers.decoding.readers import Reader, Rest
from workers.decoding.replay import Replays

#: A beginning that prompts share is worth keeping from so many tokens on.
LEAST_SHARED = 16


@dataclass(eq=False, slots=True)
class Row:
    """A request in a slot.

    Attributes:
        most: Tokens after which it ends.
        least: Tokens before which the model may not end it.
        rules: Its own; see choosing.own_rules.
        is_over: Asked after each token with all of them, where more than a token tells the end.
        said: Its tokens so far, that which ended it included.
        logprobs: Of each of them. One that is no number is the end: the model has lost its way.
    """

    prompt: Prompt
    most: int
    least: int = 0
    rules: LogitsProcessorList | None = None
    is_over: Callable[[Sequence[int]], bool] | None = None
    said: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    slot: int = -1
    begun: int = 0  # tokens that were asked for, those not read yet included

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt.ids)

    @property
    def is_lost(self) -> bool:
        """Whether the model's scores are no numbers any more."""
        return bool(self.logprobs) and not math.isfinite(self.logprobs[-1])


class Copied:
    """A tensor on its way from the device."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._here = tensor.clone()
        if tensor.is_cuda:
            self._here = torch.empty_like(tensor, device="cpu", pin_memory=True)
            self._here.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[Any]:
        """Wait until it is here."""
        if self._arrived:
            self._arrived.synchronize()
        values: list[Any] = self._here.tolist()
        return values


class Slots:
    """The slots of a model.

    Args:
        reader: Runs its text model.
        see: Runs its vision part: pictures to features, one tensor (rows, width) each.
        head: Its last layer.
        chooser: Takes tokens from its scores.
        room: What slots there are.
    """

    def __init__(
        self,
        reader: Reader,
        see: Callable[[Sequence[Picture]], list[torch.Tensor]],
        head: Callable[[torch.Tensor], torch.Tensor],
        chooser: Chooser,
        room: Room,
    ) -> None:
        self._reader, self._see, self._head, self._chooser = reader, see, head, chooser
        self._fixed, self._late, self._device = room.fixed, room.late, room.device
        count, length, device = room.slots, room.length, room.device
        self.room, self.count, self.length = room, count, length
        self._cache = SlotCache(reader.layers, reader.heads, reader.size, room)
        reader.make_room(count)
        whole = {"dtype": torch.long, "device": device}
        self._tokens, self._positions, self._ends_from = (
            torch.zeros(count, **whole) for _ in range(3)
        )
        self._ids = torch.zeros(count, length, **whole)
        self._numbers = torch.arange(count, device=device)
        self._free = list(range(count - 1, -1, -1))
        self._rows: dict[int, Row] = {}
        self._unread: deque[tuple[Copied, Copied, list[tuple[Row, int]]]] = deque()
        self._features, self._beginnings = Kept(room.features_bytes), Kept(room.features_bytes)
        self._replays = Replays() if room.fixed and device.type == "cuda" else None

    def fits(self, *, tokens: int, pictures: int, most: int) -> bool:
        """Whether a slot is large enough for a prompt and the longest answer to it."""
        kept = self._reader.most_pictures
        # A step that is started before the end is seen writes one token more.
        return (not kept or pictures <= kept) and tokens + most + 1 <= self.length

    # ---- joining ----------------------------------------------------------------------

    def admit(self, rows: Sequence[Row]) -> list[Row]:
        """Read the prompts of new rows and say their first tokens.

        If it fails, none of the rows has joined.

        Returns:
            Those that are over already.
        """
        groups = [[row] for row in rows] if self.room.apart else [list(rows)]
        joined: list[Row] = []
        over: list[Row] = []
        try:
            for group in groups:
                joined += group
                over += self._admit(group)
        except BaseException:
            self.drop([row for row in joined if self._rows.get(row.slot) is row])
            raise
        return over

    def _admit(self, rows: list[Row]) -> list[Row]:
        slots = self._free[-len(rows) :][::-1]
        starts = [self._put_beginning(row, slot) for row, slot in zip(rows, slots, strict=True)]
        prompts = [row.prompt for row in rows]
        where, lengths, least, may_end = self._to_device(
            slots,
            [row.length for row in rows],
            [row.least for row in rows],
            [int(row.least <= 0) for row in rows],
        )
        features = self._features_of(
            [
                prompt.pictures[self._reader.first_unread(prompt, start) :]
                for prompt, start in zip(prompts, starts, strict=True)
            ]
        )
        rest = Rest(prompts, slots, starts, self._device)
        hidden = self._reader.read(rest, features, self._cache)[rest.ends]
        scores = self._chooser.allowed(self._head(hidden), may_end.bool())
        tokens, logprobs = self._chooser.likeliest(scores)
        for number, row in enumerate(rows):
            if row.rules:
                tokens[number], logprobs[number] = self._chooser.by_rules(
                    scores[number], row.rules, row.prompt.ids
                )
                self._ids[slots[number], : row.length] = row.prompt.ids.to(self._device)
        self._tokens[where], self._positions[where] = tokens, lengths
        self._ends_from[where] = lengths + least - 1
        for row, slot, start in zip(rows, slots, starts, strict=True):
            self._keep_beginning(row, slot, start)
        del self._free[-len(rows) :]
        for row, slot in zip(rows, slots, strict=True):
            row.slot, row.begun = slot, 1
            self._rows[slot] = row
        return self._settle(tokens, logprobs, [(row, n) for n, row in enumerate(rows)])

    def _to_device(self, *columns: Sequence[int]) -> torch.Tensor:
        """Whole numbers in one copy, sent before anything that takes long."""
        return torch.tensor(columns).to(self._device, non_blocking=True)

    def _features_of(self, shown: Sequence[Sequence[Picture]]) -> list[list[torch.Tensor]]:
        found: dict[bytes, torch.Tensor] = {}
        unseen: dict[bytes, Picture] = {}
        for picture in (picture for own in shown for picture in own):
            if kept := self._features.get(picture.key):
                [found[picture.key]] = kept
            else:
                unseen[picture.key] = picture
        for key, features in zip(unseen, self._see(list(unseen.values())), strict=True):
            found[key] = features
            self._features.put(key, [features])
        return [[found[picture.key] for picture in own] for own in shown]

    def _beginning(self, row: Row) -> bytes | None:
        shared = row.prompt.shared
        if shared < LEAST_SHARED or self.room.apart:
            return None
        # The pictures are named in order, those that are the item's own cannot be among the first.
        names = b"".join(picture.key for picture in row.prompt.pictures[: row.prompt.shown_shared])
        return bytes(row.prompt.ids[:shared].numpy().data) + names

    def _put_beginning(self, row: Row, slot: int) -> int:
        begun = self._beginnings.get(self._beginning(row) or b"")
        if begun is None:
            return 0
        self._cache.put(slot, begun)
        return row.prompt.shared

    def _keep_beginning(self, row: Row, slot: int, start: int) -> None:
        name = self._beginning(row)
        if name is not None and not start and name not in self._beginnings:
            self._beginnings.put(name, self._cache.beginning(slot, row.prompt.shared))

    def release(self) -> None:
        """Free the memory of everything that is only kept to save time."""
        self._features.clear()
        self._beginnings.clear()

    # ---- saying -----------------------------------------------------------------------

    def step(self) -> list[Row]:
        """Say the next token of every row.

        Returns:
            Those that are over.
        """
        rows = [row for row in self._rows.values() if row.begun < row.most]
        over: list[Row] = []
        if rows:
            over = self._settle(*self._say(rows), [(row, row.slot) for row in rows])
        while self._unread and (len(self._unread) > 1 or not rows):
            over += self._read()
        return over

    def _say(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        seen = max(row.length + row.begun for row in rows)
        if self.room.apart:
            seen = self.length  # so that not even the length of a sum depends on the others
        if self._replays:
            seen = self._replays.bucket(seen, self.length)
            scores, logprobs = self._replays.run(seen, lambda: self._compute(self.count, seen))
        else:
            count = self.count if self._fixed else len(self._rows)
            scores, logprobs = self._compute(count, seen)
        for row in rows:
            if row.rules:
                ids = self._ids[row.slot, : row.length + row.begun]
                self._tokens[row.slot], logprobs[row.slot] = self._chooser.by_rules(
                    scores[row.slot], row.rules, ids
                )
            row.begun += 1
        return self._tokens, logprobs

    def _compute(self, count: int, seen: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of the first slots; no shape in it depends on what is in them."""
        tokens, positions = self._tokens[:count], self._positions[:count]
        self._ids[self._numbers[:count], positions] = tokens
        hidden = self._reader.say(tokens, positions, seen, self._cache)
        scores = self._chooser.allowed(self._head(hidden), positions >= self._ends_from[:count])
        best, logprobs = self._chooser.likeliest(scores)
        tokens.copy_(best)
        positions.add_(1).clamp_(max=self.length - 1)
        return scores, logprobs

    # ---- ending -----------------------------------------------------------------------

    def _settle(
        self, tokens: torch.Tensor, logprobs: torch.Tensor, places: list[tuple[Row, int]]
    ) -> list[Row]:
        """Take what a step has said, at once or when the next one has been started.

        Args:
            places: Rows, and where in the tensors theirs is.
        """
        if not self._late:
            return self._take(tokens.tolist(), logprobs.tolist(), places)
        self._unread.append((Copied(tokens), Copied(logprobs), places))
        return []

    def _read(self) -> list[Row]:
        tokens, logprobs, places = self._unread.popleft()
        return self._take(tokens.read(), logprobs.read(), places)

    def _take(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[float],
        places: Sequence[tuple[Row, int]],
    ) -> list[Row]:
        over = []
        for row, place in places:
            if self._rows.get(row.slot) is not row:
                continue  # it had ended when this step was started
            row.said.append(tokens[place])
            row.logprobs.append(logprobs[place])
            ended = row.said[-1] in self._chooser.ends or len(row.said) >= row.most
            # Asked in any case: somebody may be reading along.
            if (row.is_over and row.is_over(row.said)) or ended or row.is_lost:
                over.append(row)
        self.drop(over)
        return over

    def clear(self) -> None:
        """Let all rows leave, also those of a step that has failed."""
        self._unread.clear()
        self.drop(list(self._rows.values()))

    def drop(self, rows: Sequence[Row]) -> None:
        """Let rows leave, whatever they have said."""
        # From the last slot on, so that none is moved that is about to leave.
        for row in sorted(rows, key=lambda row: row.slot, reverse=True):
            del self._rows[row.slot]
            if row.is_lost:
                self._cache.clear(row.slot)
                self._reader.clear(row.slot)
            if self._fixed:
                self._free.append(row.slot)
            else:
                self._close_gap(row.slot)

    def _close_gap(self, slot: int) -> None:
        """Move the last row into a slot that was left, so that those in use lie together."""
        last = len(self._rows)
        self._free.append(last)
        if slot == last:
            return
        row = self._rows.pop(last)
        self._cache.move(last, slot, row.length + row.begun)
        self._reader.move(last, slot)
        for values in (self._tokens, self._positions, self._ends_from, self._ids):
            values[slot] = values[last]
        row.slot = slot
        self._rows[slot] = row
