"""What a family is: load once, prepare items on the CPU, generate batches on the device.

load(settings) ─▶ Family
family.prepare(request, images) ─▶ Prepared       one item, any thread, errors are its own
family.generate([Prepared, …])  ─▶ [Answer, …]    like options, same order and length
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Protocol

from PIL import Image

from db.cards import ModelCard
from db.errors import EngineError
from workers.settings import EngineSettings

#: How an answer came about: in slots, by the library's `generate`, by ranking labels.
MadeBy = Literal["slots", "generate", "rank"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An item ready for the device.

    Attributes:
        request: The effective request, see db/requests.py.
        tokens: Length of the prompt with its image tokens; what batches are sorted by.
        inputs: The family's own, not looked at by anybody else.
        on_text: Called with the beginning of the answer whenever more of it is certain, where
            the family can tell before the end.
        on_step: Called after each token that `generate` adds to the batch which it is the first of.
        then: What is made of the answer: a better one, or something else to ask first. Called in
            any thread but the device's.
    """

    request: dict[str, Any]
    tokens: int
    inputs: Any
    on_text: Callable[[str], None] | None = None
    on_step: Callable[[], None] | None = None
    then: "Callable[[Answer], Answer | Prepared] | None" = None


@dataclass(frozen=True, slots=True)
class Score:
    """How likely one label is after the prompt.

    Attributes:
        logprob: Sum of the logarithms of its tokens' probabilities.
        mean_logprob: The same, divided by the number of tokens.
    """

    label: str
    logprob: float
    mean_logprob: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said.

    Attributes:
        finish_reason: "stop" when the model or a stop string ended, "end_of_utterance" when the
            model ended its turn, "length" when `max_new_tokens` did, "rank" for ranked labels.
        prompt_tokens: Tokens of the prompt, those of images included.
        completion_tokens: Tokens generated, the one that ends included.
        template: Name and version of the prompt template.
        path: How it came about.
        label: Classify: the label that the answer names, None if it names none of them.
        scores: Ranked labels: each with its likelihood, in the request's order.
        seed: Of a sampled answer: what draws it again.
        prompt: The prompt, an image being one token, if the request asked for it.
        alt_text: Alternative text: what was made of the draft, see families/alttext.py.
        confidence: Geometric mean of the probabilities of its tokens, where the family knows it.
            It is not shown by itself, for neighbours in a batch move its last digits.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    template: str
    path: MadeBy = "generate"
    label: str | None = None
    scores: tuple[Score, ...] | None = None
    seed: int | None = None
    prompt: str | None = None
    alt_text: dict[str, Any] | None = None
    confidence: float | None = field(default=None, compare=False)

    def record(self, kind: str) -> dict[str, Any]:
        """The JSON that is stored and sent, without what does not concern it."""
        said: dict[str, Any] = {
            key: value for key in _RECORDED if (value := getattr(self, key)) is not None
        }
        if self.scores is not None:
            said["scores"] = [asdict(score) for score in self.scores]
        if kind == "classify":
            said.setdefault("label", None)
        for key in ("text", "prompt"):
            if key in said:
                said[key] = storable(said[key])
        return said


_RECORDED = [field.name for field in fields(Answer) if field.name != "confidence"]


def storable(text: str) -> str:
    """A byte-level tokenizer can say NUL, which Postgres cannot store."""
    return text.replace("\0", "\ufffd")


class SlotFull(EngineError):
    """An answer has filled its slot and is not over: `generate` answers the item from the start."""


class Joining(Protocol):
    """Answers side by side, each beginning and ending at any time. One thread calls it.

    `admit` and `step` raise MemoryError when the device is full. Where `admit` raises, nothing was
    admitted; after a `step` that raises, everything is to be dropped.
    """

    @property
    def count(self) -> int:
        """How many items it holds at most."""

    def takes(self, item: Prepared) -> bool:
        """Whether an item can be answered here; others are answered by `Family.generate`."""

    def cost(self, item: Prepared) -> int:
        """Work before the first token, in tokens of text that would take as long."""

    def admit(self, items: Sequence[Prepared]) -> list[tuple[Prepared, Answer | EngineError]]:
        """Begin, `count` in all at most. Returns those that are answered already."""

    def step(self) -> list[tuple[Prepared, Answer | EngineError]]:
        """Say the next token of every item. Returns those that are answered."""

    def drop(self) -> None:
        """Forget all items."""

    def shrink(self) -> None:
        """Free what is only kept to save time, and see fewer pictures at once from now on."""

    def release(self) -> None:
        """Free what is only kept to save time."""


class Family(Protocol):
    """A loaded model."""

    @property
    def card(self) -> ModelCard:
        """What it can do."""

    @property
    def slots(self) -> Joining | None:
        """None for a model that answers whole batches alone."""

    @property
    def wanted(self) -> Callable[[int, int], tuple[int, int]] | None:
        """From a picture's width and height to those that the model looks at, if it says so."""

    def prepare(self, request: dict[str, Any], images: Sequence[Image.Image]) -> Prepared:
        """Make one item ready; called from several threads at once.

        Args:
            request: The effective request.
            images: RGB, those of the request and then those of its examples.

        Raises:
            ItemError: The item cannot be answered by this model.
        """

    def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
        """Answer a batch whose items have the same kind and options, in its order.

        Raises:
            MemoryError: The device has not enough memory for the batch.
            EngineError: The device failed.
        """


LoadFamily = Callable[[EngineSettings], Family]
