"""A pinned model of transformers: everything that does not depend on its architecture.

prepare   request ─▶ turns ─▶ text ─▶ tensors and pictures of one item  workers/families/prompts.py
slots     items that join and leave while others are answered           workers/families/slotted.py
generate  what the slots cannot: items that can share a batch ─▶ padded on the left ─▶ generate
          ranked labels ─▶ likelihoods                                  workers/families/ranking.py

A family is a subclass that knows its processor and how its images are laid side by side. Items
are prepared alone, so that one bad item raises for itself only. Texts are padded on the left:
on the right, answers depend on neighbours.
"""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import jinja2
import torch
from PIL import Image
from transformers import AutoProcessor, LogitsProcessor, LogitsProcessorList

from db.cards import Serving
from db.errors import EngineError, ItemRefused, PromptTooLong, RequestError
from workers.decoding import generation, sampling
from workers.decoding.prompt import Picture
from workers.decoding.readers import Reader
from workers.decoding.streaming import Streamer, Teller
from workers.families import checkpoints, identity, loading, ranking, selfcheck, slotted
from workers.families.base import Answer, MadeBy, Prepared
from workers.families.labels import named
from workers.families.pixels import Pixels
from workers.families.prompts import Part, Style, Turn, build
from workers.families.special import Controls
from workers.settings import EngineSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Inputs:
    """One item's tensors and what its answer needs.

    Attributes:
        tensors: Without a batch dimension; those of `Pinned.per_token` are (tokens, …).
        pictures: In the order of the prompt, where the family knows them one by one.
        shared: Of the pictures, those of examples, which come first.
        prompt: The prompt's text, an image being one token.
        template: Name of the prompt template.
        seed: What draws the answer, if it is drawn.
        suffixes: What follows the prompt for each label, if labels are to be ranked.
    """

    tensors: dict[str, torch.Tensor]
    pictures: Sequence[Picture]
    shared: int
    prompt: str
    template: str
    seed: int | None
    suffixes: ranking.Suffixes | None


class Pinned(ABC):
    """A loaded checkpoint; subclasses say what is special about theirs.

    Args:
        settings: Which checkpoint, where and in which number format.

    Raises:
        RequestError: It cannot be loaded, or fails the check of `selfcheck`.
    """

    #: Name of the family.
    name: ClassVar[str]
    #: What loads its processor.
    processor_class: ClassVar[Any] = AutoProcessor
    #: Those that the model was made to answer in; none if that is not known.
    languages: ClassVar[tuple[str, ...]] = ()
    #: Tensors with a row for each token, besides the ids: zeros are put before a shorter item's.
    per_token: ClassVar[frozenset[str]] = frozenset({"input_ids", "attention_mask"})
    #: Whether it can do nothing without a chat template.
    needs_template: ClassVar[bool] = False
    #: Whether pictures are bytes until they are on the device, see pixels.py.
    sends_bytes: ClassVar[bool] = True

    def __init__(self, settings: EngineSettings) -> None:
        if settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)
        where = checkpoints.fetch(settings)
        self._processor = loading.load_processor(self.processor_class, where, settings)
        if self.needs_template and self._style(settings) == "plain":
            raise RequestError(
                f"the processor of model {settings.model!r} has no chat template;"
                " name a file that holds one with IDEFIQ_CHAT_TEMPLATE"
                if not self._processor.chat_template
                else f"model {settings.model!r} only takes turns: unset IDEFIQ_PROMPT_STYLE"
            )
        self.tokenizer = self._processor.tokenizer
        self.pixels = Pixels(self._processor.image_processor) if self.sends_bytes else None
        self.image_token = str(getattr(self._processor, "image_token", "<image>"))
        self.image_token_id = int(self.tokenizer.convert_tokens_to_ids(self.image_token))
        self.model = loading.load_model(where, settings)
        self.device = loading.input_device(self.model, settings)
        self._controls = Controls.of(
            self.tokenizer, str(self._processor.chat_template or ""), self.image_token
        )
        self._controls_of = lru_cache(1024)(self._count_controls_without_text)
        self._suffixes_of = lru_cache(64)(self._suffixes)
        self._context = identity.context_of(self.model)
        self.ending = generation.Ending.of(self.model, self.tokenizer, self._controls.of_images)
        self._padding = generation.padding(self.tokenizer, self.ending)
        self.card = identity.card(
            settings,
            where,
            self.model,
            family=self.name,
            style=self._style(settings),
            languages=self.languages,
        )
        #: Whether everything is computed by itself, never beside a neighbour.
        self.is_invariant = settings.invariant
        checks = selfcheck.run(self)
        self.ranks_from_cache = selfcheck.ranks_from_cache(self)
        vision = getattr(self.model.config, "vision_config", None)
        self.wanted = self.sized if settings.decoding == "fast" else None
        #: Pixels of a patch, where pictures are cut into patches.
        self.patch_pixels = _patch_pixels(vision)
        #: Most patches that go through the vision part in one pass.
        self.patches_at_once = 1 if settings.invariant else settings.patches_at_once
        slots = slotted.build(self, settings)
        self.slots = None if isinstance(slots, str) else slots
        serving = (
            Serving(path="generate", why=slots)
            if isinstance(slots, str)
            else Serving(path="slots", slots=slots.count, slot_tokens=slots.length)
        )
        log.info("%s is served so: %s", settings.model, serving)
        known = ""
        if settings.reuse_answers:
            template = self._processor.chat_template
            known = identity.fingerprint(settings, where, template, self.card)
        told = {"checks": checks, "serving": serving, "fingerprint": known}
        self.card = self.card.model_copy(update=told)

    # ---- what a family says ----------------------------------------------------------

    @abstractmethod
    def encode(
        self, text: str, images: Sequence[Image.Image]
    ) -> tuple[dict[str, torch.Tensor], Sequence[Picture]]:
        """One item's tensors, without a batch dimension, and its pictures in order."""

    @abstractmethod
    def collate_images(self, items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        """The tensors of a batch that are not per token."""

    # ---- and may say otherwise -------------------------------------------------------

    def sized(self, width: int, height: int) -> tuple[int, int]:
        """The width and height at which the model looks at a picture."""
        return width, height

    def reader(self) -> Reader | None:
        """What reads prompts into slots, for a model that can be served so."""
        return None

    def see(self, pictures: Sequence[Picture]) -> list[torch.Tensor]:
        """Features of pictures, for the reader: a tensor (rows, width) of each."""
        raise NotImplementedError

    def render(self, turns: Sequence[Turn]) -> str:
        """The text of a prompt, with one image token for each image."""
        if self.card.style == "plain":
            return "".join(
                self.image_token if isinstance(part, int) else part
                for turn in turns
                for part in turn.parts
            )
        messages = [
            {"role": turn.role, "content": [_content(part) for part in turn.parts]}
            for turn in turns
        ]
        try:
            text: str = self._processor.apply_chat_template(messages, add_generation_prompt=True)
        except (jinja2.TemplateError, TypeError) as error:
            raise ItemRefused(f"the model's chat template refuses this: {error}") from error
        return text

    def begins_itself(self, text: str) -> bool:
        """Whether a prompt writes the first token, which a tokenizer would write once more."""
        begin = self.tokenizer.bos_token
        return bool(begin) and text.startswith(begin)

    def like(self, item: Inputs) -> Hashable:
        """Items may be collated if this is equal."""
        return None

    def go_on(self, outputs: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What a forward pass after a cached prefix needs besides ids, mask and cache.

        Args:
            outputs: Of the prefix, one row.
            tensors: The inputs of the prefix.
        """
        return {}

    def _style(self, settings: EngineSettings) -> Style:
        if settings.prompt_style != "auto":
            return settings.prompt_style
        return "chat" if self._processor.chat_template else "plain"

    # ---- CPU ------------------------------------------------------------------------

    def prepare(self, request: dict[str, Any], images: Sequence[Image.Image]) -> Prepared:
        """See Family.prepare."""
        prompt = build(request, self.card.style, len(images))
        turns = [
            Turn(turn.role, tuple(self._spelled(part) for part in turn.parts))
            for turn in prompt.turns
        ]
        text = self.render(turns)
        ids = self.text_ids(text)
        if self._controls.count(ids) != self._controls_of(tuple(_bare(turn) for turn in turns)):
            raise ItemRefused("the text contains what this model takes for a control token")
        self._check_length(len(ids), 0)  # before pictures make it longer, and are worked on
        suffixes = None
        if request.get("method") == "rank":
            labels = tuple(self._controls.spell_out(label) for label in request["labels"])
            suffixes = self._suffixes_of(self._tail(text, ids), labels)
        shown = [images[part] for turn in turns for part in turn.parts if isinstance(part, int)]
        try:
            tensors, pictures = self.encode(text, shown)
        except (ValueError, TypeError, ArithmeticError) as error:
            sizes = ", ".join(f"{image.width}x{image.height}" for image in shown)
            raise ItemRefused(
                f"the model's processor cannot take the item (pictures: {sizes or 'none'}): {error}"
            ) from error
        tokens = len(tensors["input_ids"])
        if suffixes:
            self._check_length(tokens, max(len(suffix) for suffix in suffixes.ids))
        else:
            self._check_length(tokens, int(self.options(request)["max_new_tokens"]))
        shared = len(request.get("examples", ())) if len(pictures) == len(shown) else 0
        seed = self._seed(request)
        inputs = Inputs(tensors, pictures, shared, text, prompt.template, seed, suffixes)
        return Prepared(request, tokens=tokens, inputs=inputs)

    def options(self, request: dict[str, Any]) -> dict[str, Any]:
        """The options of a request over those of the checkpoint."""
        return {**self.card.defaults, **request.get("options", {})}

    def text_ids(self, text: str) -> list[int]:
        """The tokens of a prompt's text, an image being one."""
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=not self.begins_itself(text)
        ).input_ids
        return ids

    def _seed(self, request: dict[str, Any]) -> int | None:
        options = self.options(request)
        return options.get("seed", sampling.new_seed()) if options.get("do_sample") else None

    def _spelled(self, part: Part) -> Part:
        return part if isinstance(part, int) else self._controls.spell_out(part)

    def _tail(self, text: str, ids: list[int]) -> str:
        """As much of a prompt's end as the tokens after it can depend on."""
        tail = text[self._controls.last(text) :]
        own = self._ids_within(tail)
        return tail if ids[len(ids) - len(own) :] == own else text

    def _ids_within(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _suffixes(self, tail: str, labels: tuple[str, ...]) -> ranking.Suffixes:
        found = ranking.suffixes(self._ids_within, tail, labels)
        if any(self._controls.count(ids) for ids in found.ids):
            raise ItemRefused("a label contains what this model takes for a control token")
        return found

    def _count_controls_without_text(self, turns: tuple[Turn, ...]) -> Counter[int]:
        return self._controls.count(self.text_ids(self.render(turns)))

    def _check_length(self, tokens: int, beside: int) -> None:
        if self._context and tokens > self._context - beside:
            raise PromptTooLong(
                f"{tokens} tokens; this model takes {self._context - beside} beside the answer"
            )

    # ---- device ---------------------------------------------------------------------

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
        """See Family.generate."""
        answers: dict[int, Answer] = {}
        groups: dict[Hashable, list[int]] = {}
        for index, item in enumerate(batch):
            kind = index if self.is_invariant else self.like(item.inputs)
            groups.setdefault(kind, []).append(index)
        try:
            for indexes in groups.values():
                some = [batch[index] for index in indexes]
                answers.update(zip(indexes, self._answer(some), strict=True))
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise MemoryError(str(error)) from error
        except RuntimeError as error:
            raise EngineError(f"generation failed: {type(error).__name__}") from error
        return [answers[index] for index in range(len(batch))]

    def collate(self, items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        """The tensors of a batch, on the device: texts padded on the left."""
        longest = max(len(item.tensors["input_ids"]) for item in items)
        padding = {"input_ids": self._padding}
        tensors = {
            name: torch.stack(
                [_pad(item.tensors[name], longest, padding.get(name, 0)) for item in items]
            )
            for name in self.per_token & items[0].tensors.keys()
        }
        return self.place(tensors | self.collate_images(items))

    def place(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors on the model's device, pixels in its number format."""
        dtype = self.model.dtype
        return {
            name: tensor.to(self.device, dtype if tensor.is_floating_point() else None)
            for name, tensor in tensors.items()
        }

    def generate_ids(
        self, batch: Sequence[Prepared], watch: LogitsProcessor | None = None
    ) -> list[list[int]]:
        """The tokens that the model says to items that can be collated, its end included.

        Args:
            watch: Looks on, unless tokens are drawn.
        """
        options = self.options(batch[0].request)
        seeds = [item.inputs.seed for item in batch]
        rules = sampling.processors(options, seeds) if options.get("do_sample") else None
        rules = LogitsProcessorList([watch] if watch else []) if rules is None else rules
        if batch[0].on_step:
            rules.append(generation.Pulse(batch[0].on_step))
        return generation.generate(
            self.model,
            self.collate([item.inputs for item in batch]),
            options,
            self.ending,
            rules,
            self.tokenizer,
            self._streamer(batch, options),
        )

    def teller(self, item: Prepared, options: dict[str, Any]) -> Teller | None:
        """What reads an answer along, if anybody does or a string may end it."""
        stops = options.get("stop", ())
        if item.on_text is None and not stops:
            return None
        return Teller(item.on_text, stops, self.ending, self.tokenizer)

    def _streamer(self, batch: Sequence[Prepared], options: dict[str, Any]) -> Streamer | None:
        # Beams are only known at the end.
        if options.get("num_beams", 1) > 1 or not any(item.on_text for item in batch):
            return None
        return Streamer([self.teller(item, options) if item.on_text else None for item in batch])

    def _answer(self, batch: Sequence[Prepared]) -> list[Answer]:
        if batch[0].inputs.suffixes:
            return [self._ranked(item, item.inputs.suffixes) for item in batch]
        is_greedy = generation.is_greedy(self.options(batch[0].request))
        confidence = generation.Confidence() if is_greedy else None
        said = self.generate_ids(batch, confidence)
        likely = confidence.logprobs() if confidence else [[] for _ in batch]
        return [
            self.answer(item, ids, "generate", logprobs)
            for item, ids, logprobs in zip(batch, said, likely, strict=True)
        ]

    def answer(
        self, item: Prepared, ids: Sequence[int], path: MadeBy, logprobs: Sequence[float]
    ) -> Answer:
        """The answer that tokens make.

        Args:
            ids: With the token that ended it.
            path: How they were generated.
            logprobs: Of as many tokens or more; none if they were not simply the likeliest.
        """
        stops = self.options(item.request).get("stop", ())
        said = generation.read(ids, stops, self.ending, self.tokenizer)
        labels = item.request.get("labels") if item.request["kind"] == "classify" else None
        return Answer(
            text=said.text,
            finish_reason=said.finish_reason,
            prompt_tokens=item.tokens,
            completion_tokens=said.tokens,
            template=item.inputs.template,
            path=path,
            label=named(said.text, labels) if labels else None,
            seed=item.inputs.seed,
            prompt=self._echo(item),
            confidence=generation.confidence(logprobs[: said.tokens]),
        )

    def _ranked(self, item: Prepared, suffixes: ranking.Suffixes) -> Answer:
        scores = ranking.rank(self, item.inputs, suffixes, item.request["labels"])
        best = max(scores, key=lambda score: score.logprob)  # the first of equals
        return Answer(
            text=best.label,
            finish_reason="rank",
            prompt_tokens=item.tokens,
            completion_tokens=0,
            template=item.inputs.template,
            path="rank",
            label=best.label,
            scores=tuple(scores),
            prompt=self._echo(item),
        )

    def _echo(self, item: Prepared) -> str | None:
        asked = item.request.get("options", {}).get("echo")
        return item.inputs.prompt if asked else None


def _patch_pixels(vision_config: Any) -> int:
    """Pixels of a patch: some models have one number for its sides, others one for each."""
    size = getattr(vision_config, "patch_size", None) or 16
    height, *_, width = (size, size) if isinstance(size, int) else size
    return int(height) * int(width)


def _content(part: Part) -> dict[str, str]:
    return {"type": "image"} if isinstance(part, int) else {"type": "text", "text": part}


def _bare(turn: Turn) -> Turn:
    """A turn of the same shape without anybody's text."""
    return Turn(turn.role, tuple(0 if isinstance(part, int) else "x" for part in turn.parts))


def _pad(tensor: torch.Tensor, length: int, value: int) -> torch.Tensor:
    missing = (length - tensor.shape[0], *tensor.shape[1:])
    return torch.cat([tensor.new_full(missing, value), tensor])
