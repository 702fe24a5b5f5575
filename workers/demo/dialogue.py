"""Dialogues about pictures as token ids, the same as the processor's, but fast.

The processor tokenizes whole strings; training sees the same few thousand pieces again and
again, so pieces are tokenized once and joined. A test holds both ways against each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerFast

from workers.demo.build import BOS, END, FAKE_TOKEN, IMAGE_TOKEN, LATENTS


@dataclass(frozen=True, slots=True)
class DialogueTurn:
    """A question and its answer.

    Attributes:
        pictures: How many new pictures stand before the question.
        is_learnt: Training learns to say the answer; that of a solved example is only read.
    """

    question: str
    answer: str
    pictures: int = 0
    is_learnt: bool = True


@dataclass
class DialogueEncoder:
    """Encodes `User: <image> question / Assistant: answer` turns."""

    tokenizer: PreTrainedTokenizerFast
    _pieces: dict[str, list[int]] = field(default_factory=dict)

    def _encode(self, piece: str) -> list[int]:
        if piece not in self._pieces:
            ids: list[int] = self.tokenizer(piece, add_special_tokens=False).input_ids
            self._pieces[piece] = ids
        return self._pieces[piece]

    def encode(self, turns: Sequence[DialogueTurn]) -> tuple[list[int], list[bool]]:
        """Returns the ids, and for each whether the model is to learn to say it."""
        special = self.tokenizer.convert_tokens_to_ids
        fake, end = special(FAKE_TOKEN), special(END)
        image = [*[special(IMAGE_TOKEN)] * LATENTS, fake]
        ids, learnt = [special(BOS)], [False]
        for number, turn in enumerate(turns):
            user = "User:" if number == 0 else "\nUser:"
            if turn.pictures:
                shown = [fake, *image * turn.pictures]
                ids_so_far = [*self._encode(user), *shown, *self._encode(f" {turn.question}")]
            else:
                ids_so_far = self._encode(f"{user} {turn.question}")
            prompt = [*ids_so_far, end, *self._encode("\nAssistant:")]
            reply = [*self._encode(f" {turn.answer}"), end]
            ids += prompt + reply
            learnt += [False] * len(prompt) + [turn.is_learnt] * len(reply)
        return ids, learnt
