"""A family's items in slots: what goes there, and answers made of what comes back.

    Prepared ─▶ Row ─▶ Slots ─▶ tokens ─▶ Answer

Whether a model can be served so is seen when it is loaded: its answers to some items are compared
with those of `generate`. What cannot be is left to `generate`, and its card says why.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import psutil
import torch

from db.errors import EngineError, RequestError
from workers.decoding import attention, generation
from workers.decoding.cache import Room
from workers.decoding.choosing import Chooser, own_rules, strange_rules
from workers.decoding.prompt import Prompt
from workers.decoding.readers import Reader
from workers.decoding.slots import Row, Slots
from workers.families.base import Answer, Prepared, SlotFull
from workers.settings import EngineSettings

if TYPE_CHECKING:
    from workers.families.pinned import Inputs, Pinned

#: Slots at most, unless the settings say how many: beyond it a step only takes longer.
MOST_SLOTS_GPU, MOST_SLOTS_CPU = 128, 64
#: Of a device's free memory, what slots may take; vision and prompts need the rest. Of a CPU's,
#: other programs want some too.
SHARE_OF_GPU, SHARE_OF_CPU = 0.5, 0.25

#: An item fits if its prompt leaves this part of the slot for its answer: one in so many.
SHARE_OF_ANSWERS = 4

log = logging.getLogger(__name__)


class Slotted:
    """Answers items of a family in slots; see Joining.

    Args:
        family: Whose items.
        slots: Of its model.
    """

    def __init__(self, family: "Pinned", slots: Slots) -> None:
        self._family, self._slots = family, slots
        self._items: dict[Row, Prepared] = {}

    @property
    def count(self) -> int:
        """See Joining."""
        return self._slots.count

    @property
    def length(self) -> int:
        """Tokens of a slot."""
        return self._slots.length

    def takes(self, item: Prepared) -> bool:
        """See Joining: beams and the likelihoods of labels are for the library.

        An item that may have a longer answer than its slot has room for is taken all the same:
        many programs always ask for thousands of tokens, and few answers have them.
        """
        options = self._family.options(item.request)
        if item.inputs.suffixes or options.get("num_beams", 1) > 1:
            return False
        return self._slots.fits(
            tokens=item.tokens,
            pictures=len(item.inputs.pictures),
            most=min(int(options["max_new_tokens"]), self.length // SHARE_OF_ANSWERS),
        )

    def cost(self, item: Prepared) -> int:
        """See Joining; a patch takes the vision part about as long as a token the text's."""
        pixels = sum(picture.pixels[0].numel() for picture in item.inputs.pictures)
        return item.tokens + int(pixels // self._family.patch_pixels)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def admit(self, items: Sequence[Prepared]) -> list[tuple[Prepared, Answer | EngineError]]:
        """See Joining."""
        rows = [self._row(item) for item in items]
        with _memory_errors():
            over = self._slots.admit(rows)
        self._items |= dict(zip(rows, items, strict=True))
        return self._answers(over)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def step(self) -> list[tuple[Prepared, Answer | EngineError]]:
        """See Joining."""
        with _memory_errors():
            over = self._slots.step()
        return self._answers(over)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def drop(self) -> None:
        """See Joining."""
        self._slots.clear()
        self._items.clear()

    def release(self) -> None:
        """See Joining."""
        self._slots.release()

    def shrink(self) -> None:
        """See Joining."""
        self.release()
        self._family.patches_at_once = max(1, self._family.patches_at_once // 2)

    def ids(self, items: Sequence[Prepared]) -> list[list[int]]:
        """The tokens said to items, all of them answered side by side, `count` at most."""
        rows = [self._row(item) for item in items]
        with torch.inference_mode():
            left = len(rows) - len(self._slots.admit(rows))
            while left:
                left -= len(self._slots.step())
        return [row.said for row in rows]

    def _row(self, item: Prepared) -> Row:
        options = self._family.options(item.request)
        return Row(
            _prompt(self._family, item.inputs),
            most=min(int(options["max_new_tokens"]), self.length - item.tokens - 1),
            least=int(options.get("min_new_tokens") or 0),
            rules=own_rules(options, item.inputs.seed),
            is_over=self._family.teller(item, options),
        )

    def _answers(self, over: Sequence[Row]) -> list[tuple[Prepared, Answer | EngineError]]:
        items = [self._items.pop(row) for row in over]
        return [(item, self._answered(item, row)) for item, row in zip(items, over, strict=True)]

    def _answered(self, item: Prepared, row: Row) -> Answer | EngineError:
        if row.is_lost:
            return EngineError("the model's scores are not finite")
        options = self._family.options(item.request)
        logprobs = row.logprobs if generation.is_greedy(options) else ()
        try:
            answer = self._family.answer(item, row.said, "slots", logprobs)
            is_cut = answer.finish_reason == "length" and len(row.said) == row.most
            if is_cut and row.most < int(options["max_new_tokens"]):
                return SlotFull("the answer is longer than its slot")
            return answer
        except Exception as error:  # one answer that cannot be read is not its neighbours' fault
            log.exception("an answer could not be read")
            return EngineError(f"the answer could not be read: {type(error).__name__}")


def build(family: "Pinned", settings: EngineSettings) -> Slotted | str:
    """The slots of a loaded family, or why it cannot have them.

    Raises:
        RequestError: There is no room for them.
    """
    from workers.families import selfcheck

    if why := _refusal(family, settings):
        return why
    reader = family.reader()
    if reader is None:
        return "its architecture has no reader here"
    attention.install(family.model)
    room = _room(family, reader, settings)
    try:
        slotted = Slotted(family, make_slots(family, reader, room))
        why = str(selfcheck.compare_slots(family, slotted))
    except RuntimeError as error:  # on a GPU out of memory is a kind of it, on a CPU no more
        raise RequestError(
            f"{room.slots} slots of {room.length} tokens cannot be had beside the model: {error};"
            " set IDEFIQ_SLOTS or IDEFIQ_SLOT_TOKENS lower"
        ) from error
    if why:
        family.model.set_attn_implementation("sdpa")
        return why
    return slotted


def _refusal(family: "Pinned", settings: EngineSettings) -> str:
    """Why slots need not even be tried."""
    config = family.model.config
    if settings.engine == "generate":
        return "the settings say so"
    if settings.device == "auto":
        return "it may lie on several devices"
    if settings.quantize == "int8":
        return "products of 8-bit weights wait for the device"
    if strange := strange_rules(family.model.generation_config):
        return f"its generation config asks for {', '.join(strange)}"
    if config._attn_implementation != "sdpa":
        return f"its attention is {config._attn_implementation}, not sdpa"
    kinds = getattr(config.get_text_config(), "layer_types", None) or ()
    if any(kind != "full_attention" for kind in kinds):
        return "its text model attends in windows"
    return ""


def _room(family: "Pinned", reader: Reader, settings: EngineSettings) -> Room:
    """As many slots as fit beside the model."""
    model, device = family.model, family.device
    text = model.config.get_text_config()
    window = getattr(text, "sliding_window", None) or settings.slot_tokens
    length = min(settings.slot_tokens, text.max_position_embeddings, window)
    per_slot = (
        2 * reader.layers * reader.heads * length * reader.size * model.dtype.itemsize
        + reader.slot_bytes()
    )
    on_gpu = device.type == "cuda"
    if on_gpu:
        room = SHARE_OF_GPU * torch.cuda.mem_get_info(device)[0]
    else:
        room = SHARE_OF_CPU * psutil.virtual_memory().available
    most = MOST_SLOTS_GPU if on_gpu else MOST_SLOTS_CPU
    count = settings.slots or max(1, min(most, int(room // per_slot)))
    log.info(
        "%d slots of %d tokens for %s, %.0f MiB",
        count,
        length,
        family.card.name,
        count * per_slot / 2**20,
    )
    return Room(
        slots=count,
        length=length,
        fixed=on_gpu or model.dtype != torch.float32 or settings.invariant,
        apart=settings.invariant,
        late=on_gpu,
        features_bytes=settings.features_bytes,
        dtype=model.dtype,
        device=device,
    )


def make_slots(family: "Pinned", reader: Reader, room: Room) -> Slots:
    """Slots of a model whose attention can be told what lies in its rows."""
    model = family.model
    head = model.get_output_embeddings()
    vocabulary: int = head.weight.shape[0] + getattr(model.config, "additional_vocab_size", 0)
    chooser = Chooser(family.ending, model.generation_config, vocabulary, room.device)
    with torch.inference_mode():
        return Slots(reader, family.see, head, chooser, room)


def _prompt(family: "Pinned", inputs: "Inputs") -> Prompt:
    ids = inputs.tensors["input_ids"]
    shared = 0
    if inputs.shared < len(inputs.pictures):
        # Up to the first token of the first picture that no example shows.
        shown = (ids == family.image_token_id).nonzero()[:, 0]
        shared = int(shown[inputs.shared * (len(shown) // len(inputs.pictures))])
    return Prompt(
        ids,
        inputs.pictures,
        looks=_looks(inputs),
        shared=shared if inputs.shared else 0,
        shown_shared=inputs.shared,
    )


def _looks(inputs: "Inputs") -> torch.Tensor | None:
    looks = inputs.tensors.get("image_attention_mask")
    return None if looks is None else looks.bool()


class _memory_errors:
    """Says MemoryError where torch says its own."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        if kind is not None and issubclass(kind, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            raise MemoryError(str(error))
