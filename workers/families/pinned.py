"""A pinned model of transformers: everything that does not depend on its architecture.

prepare      request ─▶ turns ─▶ text ─▶ tensors and images of one item  families/prompts.py
slot_engine  continuous batching                                         families/batching.py
generate     items that continuous batching does not accept: padded on the left, in batches
             labels to rank: scores                                      families/ranking.py

A family is a subclass that knows its processor and how the images of several items are collated.
Items are prepared one by one, so that a bad item raises only for itself. Texts are padded on the
left: padded on the right, answers would depend on neighbours.
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

from db.errors import EngineError, ItemRefused, PromptTooLong, RequestError
from db.model_info import Serving
from workers.decoding import generation, seeded_sampling
from workers.decoding.prompt import ImageInput
from workers.decoding.streaming import AnswerStreamer, BatchStreamer
from workers.decoding.text_decoder import TextDecoder
from workers.families import batching, checkpoints, identity, loading, ranking, selfcheck
from workers.families.base import Answer, DecoderName, Prepared
from workers.families.control_tokens import ControlTokens
from workers.families.labels import named
from workers.families.pixels import PixelNormalizer
from workers.families.prompts import PromptPart, Style, Turn, build
from workers.settings import EngineSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Inputs:
    """One item's tensors, and what is needed to make its answer.

    Attributes:
        tensors: Without a batch dimension; those of `Pinned.per_token` are (tokens, …).
        images: In the order of the prompt; empty if the family does not know them one by one.
        example_images: Images that belong to examples; they come first.
        prompt: The prompt's text, an image being one token.
        template: Name of the prompt template.
        seed: Seed of a sampled answer.
        suffixes: Tokens of each label after the prompt, if labels are to be ranked.
    """

    tensors: dict[str, torch.Tensor]
    images: Sequence[ImageInput]
    example_images: int
    prompt: str
    template: str
    seed: int | None
    suffixes: ranking.Suffixes | None


class Pinned(ABC):
    """A loaded checkpoint. Subclasses implement what differs between architectures.

    Args:
        settings: Which checkpoint, on which device, in which dtype.

    Raises:
        RequestError: It cannot be loaded, or fails the check of `selfcheck`.
    """

    #: Name of the family.
    name: ClassVar[str]
    #: Class that loads the processor.
    processor_class: ClassVar[Any] = AutoProcessor
    #: Languages that the model was trained to answer in; empty if unknown.
    languages: ClassVar[tuple[str, ...]] = ()
    #: Tensors with a row for each token; those of shorter items are padded with zeros.
    per_token: ClassVar[frozenset[str]] = frozenset({"input_ids", "attention_mask"})
    #: True if the family cannot work without a chat template.
    needs_template: ClassVar[bool] = False
    #: True if images are sent to the device as uint8 and normalized there; see pixels.py.
    sends_uint8: ClassVar[bool] = True

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
        self.pixels = PixelNormalizer(self._processor.image_processor) if self.sends_uint8 else None
        self.image_token = str(getattr(self._processor, "image_token", "<image>"))
        self.image_token_id = int(self.tokenizer.convert_tokens_to_ids(self.image_token))
        self.model = loading.load_model(where, settings)
        self.device = loading.input_device(self.model, settings)
        self._controls = ControlTokens.of(
            self.tokenizer, str(self._processor.chat_template or ""), self.image_token
        )
        self._count_controls_of = lru_cache(1024)(self._count_controls_without_text)
        self._suffixes_of = lru_cache(64)(self._suffixes)
        self._context = identity.context_of(self.model)
        self.end_tokens = generation.EndTokens.of(
            self.model, self.tokenizer, self._controls.of_images
        )
        self._padding = generation.padding(self.tokenizer, self.end_tokens)
        self.card = identity.card(
            settings,
            where,
            self.model,
            family=self.name,
            style=self._style(settings),
            languages=self.languages,
        )
        #: True if every item is computed alone, so that no neighbour can change its answer.
        self.is_batch_invariant = settings.invariant
        checks = selfcheck.run(self)
        self.ranks_from_cache = selfcheck.ranks_from_cache(self)
        vision = getattr(self.model.config, "vision_config", None)
        self.target_size = self.image_size if settings.decoding == "fast" else None
        #: Pixels of a patch of the vision encoder.
        self.patch_pixels = _patch_pixels(vision)
        #: Most patches in one pass of the vision encoder.
        self.patches_at_once = 1 if settings.invariant else settings.patches_at_once
        batcher = batching.build(self, settings)
        self.slot_engine = None if isinstance(batcher, str) else batcher
        serving = (
            Serving(path="generate", why=batcher)
            if isinstance(batcher, str)
            else Serving(path="slots", slots=batcher.count, slot_tokens=batcher.length)
        )
        log.info("model %s is served by %s", settings.model, serving)
        fingerprint = ""
        if settings.reuse_answers:
            template = self._processor.chat_template
            fingerprint = identity.fingerprint(settings, where, template, self.card)
        update = {"checks": checks, "serving": serving, "fingerprint": fingerprint}
        self.card = self.card.model_copy(update=update)

    # ---- what a family implements ------------------------------------------------------

    @abstractmethod
    def encode(
        self, text: str, images: Sequence[Image.Image]
    ) -> tuple[dict[str, torch.Tensor], Sequence[ImageInput]]:
        """Return one item's tensors, without a batch dimension, and its images in order."""

    @abstractmethod
    def collate_images(self, items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        """Collate the tensors of a batch that are not per token."""

    # ---- what a family may override ---------------------------------------------------

    def image_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height at which the vision encoder sees an image."""
        return width, height

    def text_decoder(self) -> TextDecoder | None:
        """Return the decoder for continuous batching, or None for `generate` alone."""
        return None

    def encode_images(self, images: Sequence[ImageInput]) -> list[torch.Tensor]:
        """Run the vision encoder: a tensor of features (rows, width) for each image."""
        raise NotImplementedError

    def render(self, turns: Sequence[Turn]) -> str:
        """Render a prompt as text, with one image token for each image."""
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

    def has_bos(self, text: str) -> bool:
        """True if a prompt's text begins with the BOS token, which a tokenizer would add again."""
        begin = self.tokenizer.bos_token
        return bool(begin) and text.startswith(begin)

    def batch_key(self, item: Inputs) -> Hashable:
        """Key of an item's batch: items with equal keys can be collated."""
        return None

    def continuation_inputs(
        self, outputs: Any, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Return what a forward pass after a cached prefix needs besides ids, mask and cache.

        Args:
            outputs: Outputs of the prefix's forward pass, one row.
            tensors: Inputs of that pass.
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
        if self._controls.count(ids) != self._count_controls_of(
            tuple(_bare(turn) for turn in turns)
        ):
            raise ItemRefused("the text contains a control token of this model")
        self._check_length(len(ids), 0)  # before images are processed, which makes it longer
        suffixes = None
        if request.get("method") == "rank":
            labels = tuple(self._controls.neutralize(label) for label in request["labels"])
            suffixes = self._suffixes_of(self._tail(text, ids), labels)
        used = [images[part] for turn in turns for part in turn.parts if isinstance(part, int)]
        try:
            tensors, image_inputs = self.encode(text, used)
        except (ValueError, TypeError, ArithmeticError) as error:
            sizes = ", ".join(f"{image.width}x{image.height}" for image in used)
            raise ItemRefused(
                f"the model's processor cannot take the item (images: {sizes or 'none'}): {error}"
            ) from error
        tokens = len(tensors["input_ids"])
        if suffixes:
            self._check_length(tokens, max(len(suffix) for suffix in suffixes.ids))
        else:
            self._check_length(tokens, int(self.options(request)["max_new_tokens"]))
        example_images = len(request.get("examples", ())) if len(image_inputs) == len(used) else 0
        seed = self._seed(request)
        inputs = Inputs(
            tensors, image_inputs, example_images, text, prompt.template, seed, suffixes
        )
        return Prepared(request, tokens=tokens, inputs=inputs)

    def options(self, request: dict[str, Any]) -> dict[str, Any]:
        """Merge the options of a request over the checkpoint's defaults."""
        return {**self.card.defaults, **request.get("options", {})}

    def text_ids(self, text: str) -> list[int]:
        """Tokenize a prompt's text; an image is one token."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=not self.has_bos(text)).input_ids
        return ids

    def _seed(self, request: dict[str, Any]) -> int | None:
        options = self.options(request)
        return options.get("seed", seeded_sampling.new_seed()) if options.get("do_sample") else None

    def _spelled(self, part: PromptPart) -> PromptPart:
        return part if isinstance(part, int) else self._controls.neutralize(part)

    def _tail(self, text: str, ids: list[int]) -> str:
        """Return the end of a prompt, as much as the tokens after it can depend on."""
        tail = text[self._controls.last(text) :]
        own = self._ids_within(tail)
        return tail if ids[len(ids) - len(own) :] == own else text

    def _ids_within(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _suffixes(self, tail: str, labels: tuple[str, ...]) -> ranking.Suffixes:
        found = ranking.suffixes(self._ids_within, tail, labels)
        if any(self._controls.count(ids) for ids in found.ids):
            raise ItemRefused("a label contains a control token of this model")
        return found

    def _count_controls_without_text(self, turns: tuple[Turn, ...]) -> Counter[int]:
        return self._controls.count(self.text_ids(self.render(turns)))

    def _check_length(self, tokens: int, beside: int) -> None:
        if self._context and tokens > self._context - beside:
            raise PromptTooLong(
                f"the prompt has {tokens} tokens; this model takes {self._context - beside} besides"
                f" an answer of {beside}"
            )

    # ---- device ---------------------------------------------------------------------

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
        """See Family.generate."""
        answers: dict[int, Answer] = {}
        groups: dict[Hashable, list[int]] = {}
        for index, item in enumerate(batch):
            kind = index if self.is_batch_invariant else self.batch_key(item.inputs)
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
        """Collate the tensors of a batch on the device, texts padded on the left."""
        longest = max(len(item.tensors["input_ids"]) for item in items)
        padding = {"input_ids": self._padding}
        tensors = {
            name: torch.stack(
                [_pad(item.tensors[name], longest, padding.get(name, 0)) for item in items]
            )
            for name in self.per_token & items[0].tensors.keys()
        }
        return self.to_device(tensors | self.collate_images(items))

    def to_device(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Move tensors to the model's device, and floating-point ones to its dtype."""
        dtype = self.model.dtype
        return {
            name: tensor.to(self.device, dtype if tensor.is_floating_point() else None)
            for name, tensor in tensors.items()
        }

    def generate_ids(
        self, batch: Sequence[Prepared], watch: LogitsProcessor | None = None
    ) -> list[list[int]]:
        """Generate the tokens of items that can be collated, end tokens included.

        Args:
            watch: A logits processor that only observes; not used when tokens are sampled.
        """
        options = self.options(batch[0].request)
        seeds = [item.inputs.seed for item in batch]
        rules = seeded_sampling.processors(options, seeds) if options.get("do_sample") else None
        rules = LogitsProcessorList([watch] if watch else []) if rules is None else rules
        if batch[0].on_step:
            rules.append(generation.ProgressHook(batch[0].on_step))
        return generation.generate(
            self.model,
            self.collate([item.inputs for item in batch]),
            options,
            self.end_tokens,
            rules,
            self.tokenizer,
            self._streamer(batch, options),
        )

    def answer_streamer(self, item: Prepared, options: dict[str, Any]) -> AnswerStreamer | None:
        """Return what streams an item's answer or finds its stop strings, if it needs that."""
        stops = options.get("stop", ())
        if item.on_text is None and not stops:
            return None
        return AnswerStreamer(item.on_text, stops, self.end_tokens, self.tokenizer)

    def _streamer(self, batch: Sequence[Prepared], options: dict[str, Any]) -> BatchStreamer | None:
        # Beams are only known at the end.
        if options.get("num_beams", 1) > 1 or not any(item.on_text for item in batch):
            return None
        return BatchStreamer(
            [self.answer_streamer(item, options) if item.on_text else None for item in batch]
        )

    def _answer(self, batch: Sequence[Prepared]) -> list[Answer]:
        if batch[0].inputs.suffixes:
            return [self._ranked(item, item.inputs.suffixes) for item in batch]
        is_greedy = generation.is_greedy(self.options(batch[0].request))
        confidence = generation.LogprobRecorder() if is_greedy else None
        output = self.generate_ids(batch, confidence)
        logprobs_of = confidence.logprobs() if confidence else [[] for _ in batch]
        return [
            self.answer(item, ids, "generate", logprobs)
            for item, ids, logprobs in zip(batch, output, logprobs_of, strict=True)
        ]

    def answer(
        self, item: Prepared, ids: Sequence[int], path: DecoderName, logprobs: Sequence[float]
    ) -> Answer:
        """Make an answer of generated tokens.

        Args:
            ids: Generated tokens, the end token included.
            path: What generated them.
            logprobs: Log probability of each token; empty unless decoding was greedy.
        """
        stops = self.options(item.request).get("stop", ())
        output = generation.detokenize(ids, stops, self.end_tokens, self.tokenizer)
        labels = item.request.get("labels") if item.request["kind"] == "classify" else None
        return Answer(
            text=output.text,
            finish_reason=output.finish_reason,
            prompt_tokens=item.tokens,
            completion_tokens=output.tokens,
            template=item.inputs.template,
            path=path,
            label=named(output.text, labels) if labels else None,
            seed=item.inputs.seed,
            prompt=self._echo(item),
            confidence=generation.confidence(logprobs[: output.tokens]),
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
    """Pixels of a patch, whose size is one number in some configurations and two in others."""
    size = getattr(vision_config, "patch_size", None) or 16
    height, *_, width = (size, size) if isinstance(size, int) else size
    return int(height) * int(width)


def _content(part: PromptPart) -> dict[str, str]:
    return {"type": "image"} if isinstance(part, int) else {"type": "text", "text": part}


def _bare(turn: Turn) -> Turn:
    """Return a turn of the same shape without the user's text."""
    return Turn(turn.role, tuple(0 if isinstance(part, int) else "x" for part in turn.parts))


def _pad(tensor: torch.Tensor, length: int, value: int) -> torch.Tensor:
    missing = (length - tensor.shape[0], *tensor.shape[1:])
    return torch.cat([tensor.new_full(missing, value), tensor])
