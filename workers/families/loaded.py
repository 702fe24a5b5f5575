"""A loaded checkpoint: the model on its device, its processor, and what is known of both."""

from dataclasses import dataclass
from typing import Any

import torch

from db.vocabulary.errors import ItemRefused
from db.vocabulary.model_info import ModelInfo
from db.vocabulary.structures import UNSTRUCTURED_OPTIONS, form_of, structure_of
from workers.decoding import generation
from workers.decoding.grammar import AnswerGrammar, Grammars
from workers.families.control_tokens import ControlTokens
from workers.families.pixels import PixelNormalizer
from workers.settings import EngineSettings

#: Most tokens of a structured answer that asks for no number.
STRUCTURED_TOKENS = 1_024


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model and its processor. Nothing here changes once it is loaded.

    Attributes:
        card: Without the checks, the serving and the fingerprint, which follow the self-check.
        device: Where inputs go; a model that is spread over devices begins there.
        pixels: Normalizes on the device what is sent as uint8; None if the processor does it.
        image_token: Text of the token that stands for an image in a prompt.
        padding: Id of the token with which shorter prompts are padded.
        context: Most tokens of a prompt and its answer; 0 if the checkpoint does not say.
        grammars: Of structured answers; None if its vocabulary cannot follow any.
    """

    settings: EngineSettings
    card: ModelInfo
    model: Any
    processor: Any
    device: torch.device
    pixels: PixelNormalizer | None
    image_token: str
    image_token_id: int
    controls: ControlTokens
    end_tokens: generation.EndTokens
    padding: int
    context: int
    grammars: Grammars | None = None

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def is_batch_invariant(self) -> bool:
        """True if every item is computed alone, so that no neighbour can change its answer."""
        return self.settings.invariant

    @property
    def is_exact(self) -> bool:
        """True if equal computations in another order should give equal tokens."""
        return self.card.dtype == "float32" and self.card.quantize == "none"

    @property
    def patch_pixels(self) -> int:
        """Pixels of a patch of the vision encoder.

        The size of a patch is one number in some configurations and two in others.
        """
        vision = getattr(self.model.config, "vision_config", None)
        size = getattr(vision, "patch_size", None) or 16
        height, *_, width = (size, size) if isinstance(size, int) else size
        return int(height) * int(width)

    def options(self, request: dict[str, Any]) -> dict[str, Any]:
        """Merge the options of a request over the checkpoint's defaults."""
        defaults = self.card.defaults
        if form_of(request):
            most = max(defaults["max_new_tokens"], self._structured_tokens)
            # Said, because `generate` would take them from the checkpoint's own configuration.
            defaults = {**defaults, **UNSTRUCTURED_OPTIONS, "max_new_tokens": most}
        return {**defaults, **request.get("options", {})}

    @property
    def _structured_tokens(self) -> int:
        # A structure has an end of its own, and half of one is of no use.
        room = self.context // 2 or STRUCTURED_TOKENS
        return min(room, STRUCTURED_TOKENS, self.card.limits.max_new_tokens)

    def most_tokens(self, request: dict[str, Any], prompt_tokens: int) -> int:
        """Return how many tokens the answer to a prompt may have."""
        most = int(self.options(request)["max_new_tokens"])
        return min(most, self.context - prompt_tokens) if self.context else most

    def grammar(self, request: dict[str, Any]) -> AnswerGrammar | None:
        """Return the grammar of a new answer to a request, None if any text will do.

        Raises:
            ItemRefused: There is no such grammar.
        """
        structure = structure_of(request)
        if structure is None:
            return None
        if self.grammars is None:
            raise ItemRefused(f"model {self.card.name!r} gives no structured answers")
        return self.grammars.new_answer(structure)

    def to_device(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Move tensors to the model's device, and floating-point ones to its dtype."""
        dtype = self.model.dtype
        return {
            name: tensor.to(self.device, dtype if tensor.is_floating_point() else None)
            for name, tensor in tensors.items()
        }
