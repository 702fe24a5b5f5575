"""What a family is: load once, prepare items on the CPU, generate batches on the device.

load(settings) ─▶ Family
family.prepare(request, images) ─▶ Prepared       one item, any thread, errors are its own
family.generate([Prepared, …])  ─▶ [Answer, …]    like options, same order and length
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Protocol

from PIL import Image

from db.vocabulary.errors import EngineError, IdefiqError
from db.vocabulary.kinds import KINDS, Kind
from db.vocabulary.model_info import ModelInfo
from db.vocabulary.texts import storable
from workers.settings import EngineSettings

#: What generated an answer: continuous batching, transformers' `generate`, or label scores.
DecoderName = Literal["slots", "generate", "rank"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An item ready for the device.

    Attributes:
        request: The effective request, see db/vocabulary/requests.py.
        tokens: Tokens of the prompt, image tokens included. Batches are sorted by it.
        inputs: Tensors and more that only the family itself uses.
        on_text: Called with the text so far whenever more of it is stable, if the family can
            stream.
        on_step: Called after each token that `generate` adds to the batch whose first item this is.
        follow_up: Turns the answer into the final one, or into another item to answer first.
            Called in any thread but the device's.
    """

    request: dict[str, Any]
    tokens: int
    inputs: Any
    on_text: Callable[[str], None] | None = None
    on_step: Callable[[], None] | None = None
    follow_up: "Callable[[Answer], Answer | Prepared] | None" = None


@dataclass(frozen=True, slots=True)
class Score:
    """Log probability of one label after the prompt.

    Attributes:
        logprob: Sum of the logarithms of its tokens' probabilities.
        mean_logprob: The same, divided by the number of tokens.
    """

    label: str
    logprob: float
    mean_logprob: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An item's answer.

    Attributes:
        finish_reason: "stop" if the model or a stop string ended it, "end_of_utterance" if the
            model ended its turn, "length" if `max_new_tokens` cut it, "rank" for ranked labels.
        prompt_tokens: Tokens of the prompt, those of images included.
        completion_tokens: Generated tokens, the end token included.
        template: Name and version of the prompt template.
        path: What generated it.
        kind_fields: What its kind reads from the text; see `Entry.read`.
        scores: Ranked labels: a score for each, in the request's order.
        seed: Seed of a sampled answer; the same seed samples it again.
        prompt: The prompt, an image being one token, if the request asked for it.
        alt_text: Alternative text: the draft with its check, see families/alttext.py.
        data: The value of a structured answer that is complete.
        tool: The function whose arguments the answer is.
        confidence: Geometric mean of the token probabilities, if the family knows them. It is not
            stored by itself, because neighbours in a batch change its last digits.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    template: str
    path: DecoderName = "generate"
    kind_fields: dict[str, Any] = field(default_factory=dict)
    scores: tuple[Score, ...] | None = None
    seed: int | None = None
    prompt: str | None = None
    alt_text: dict[str, Any] | None = None
    data: Any = None
    tool: str | None = None
    confidence: float | None = field(default=None, compare=False)

    def record(self, kind: Kind) -> dict[str, Any]:
        """Return the JSON that is stored and sent, without fields that are None."""
        stored: dict[str, Any] = {
            key: value for key in _RECORDED if (value := getattr(self, key)) is not None
        }
        if self.scores is not None:
            stored["scores"] = [asdict(score) for score in self.scores]
        stored |= dict.fromkeys(KINDS[kind].answer_fields) | self.kind_fields
        for key in ("text", "prompt"):
            if key in stored:
                stored[key] = storable(stored[key])
        return stored


_RECORDED = [f.name for f in fields(Answer) if f.name not in ("confidence", "kind_fields")]


class SlotFull(EngineError):
    """An answer has filled its slot unfinished: `generate` answers the item from the start."""


class SlotEngine(Protocol):
    """Continuous batching of prepared items. One thread calls it.

    `admit` and `decode_step` raise MemoryError when the device is full. If `admit` raises, nothing
    was admitted. After a `decode_step` that raises, the caller must call `clear`.
    """

    @property
    def count(self) -> int:
        """Most items at the same time."""

    def accepts(self, item: Prepared) -> bool:
        """True if an item can be answered here; `Family.generate` answers the others."""

    def prefill_cost(self, item: Prepared) -> int:
        """Work before the first token, in text tokens whose prefill takes as long."""

    def admit(self, items: Sequence[Prepared]) -> list[tuple[Prepared, Answer | IdefiqError]]:
        """Prefill items, `count` in all at most. Returns those that are answered already."""

    def decode_step(self) -> list[tuple[Prepared, Answer | IdefiqError]]:
        """Generate the next token of every item. Returns those that are answered."""

    def clear(self) -> None:
        """Remove all items."""

    def reduce_memory(self) -> None:
        """Free the caches, and encode fewer images at once from now on."""

    def free_caches(self) -> None:
        """Free the caches of image features and prefixes."""


class Family(Protocol):
    """A loaded model."""

    @property
    def card(self) -> ModelInfo:
        """Name, kinds, limits and checks of the model."""

    @property
    def slot_engine(self) -> SlotEngine | None:
        """None for a model that only `generate` answers."""

    @property
    def target_size(self) -> Callable[[int, int], tuple[int, int]] | None:
        """From an image's width and height to those that the vision encoder sees, if known."""

    def prepare(self, request: dict[str, Any], images: Sequence[Image.Image]) -> Prepared:
        """Prepare one item. May be called from several threads at once.

        Args:
            request: The effective request.
            images: RGB, those of the request and then those of its examples.

        Raises:
            ItemError: This model cannot answer the item.
        """

    def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
        """Answer a batch whose items have the same kind and options, in its order.

        Raises:
            MemoryError: The device has not enough memory for the batch.
            EngineError: The device failed.
        """


LoadFamily = Callable[[EngineSettings], Family]
