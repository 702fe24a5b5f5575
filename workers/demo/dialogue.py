"""Dialogues about one picture as token ids, the same as the processor's, but fast.

The processor tokenizes whole strings; training sees the same few thousand pieces again and
again, so pieces are tokenized once and joined. A test holds both ways against each other.
"""

from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerFast

from workers.demo.build import BOS, END, FAKE, IMAGE, LATENTS
from workers.demo.texts import QuestionAnswer


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

    def encode(self, turns: list[QuestionAnswer]) -> tuple[list[int], list[bool]]:
        """Returns the ids, and for each whether the model is to learn to say it."""
        special = self.tokenizer.convert_tokens_to_ids
        fake, end = special(FAKE), special(END)
        ids, learnt = [special(BOS)], [False]
        for number, (question, answer) in enumerate(turns):
            if number == 0:
                image = [fake, *[special(IMAGE)] * LATENTS, fake]
                said = [*self._encode("User:"), *image, *self._encode(f" {question}")]
            else:
                said = self._encode(f"\nUser: {question}")
            prompt = [*said, end, *self._encode("\nAssistant:")]
            reply = [*self._encode(f" {answer}"), end]
            ids += prompt + reply
            learnt += [False] * len(prompt) + [True] * len(reply)
        return ids, learnt
