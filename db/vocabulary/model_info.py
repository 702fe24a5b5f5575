"""Model info: how an engine describes the model that it serves.

engine loads a model ─▶ ModelInfo ─▶ database ─▶ GET /v1/models
                                             └─▶ request_validation.py checks each submission
"""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, computed_field

from db.vocabulary.kinds import Kind, Style
from db.vocabulary.requests import MAX_EXAMPLES, MAX_IMAGES


class _Stored(BaseModel):
    # Rows outlive the worker that wrote them: an older API ignores fields of a newer engine.
    model_config = ConfigDict(extra="ignore", frozen=True)


class ModelLimits(_Stored):
    """Limits of a model for one item.

    Attributes:
        max_images: Most images of an item.
        min_images: Fewest, where a model answers nothing without an image.
        max_examples: Solved examples of an item.
        max_new_tokens: Tokens of an answer; how many an item gets that asks for no number is in
            `ModelInfo.defaults`.
    """

    max_images: Annotated[int, Field(ge=0, le=MAX_IMAGES)]
    min_images: Annotated[int, Field(ge=0, le=MAX_IMAGES)] = 0
    max_examples: Annotated[int, Field(ge=0, le=MAX_EXAMPLES)] = 0
    max_new_tokens: Annotated[int, Field(ge=1)]


class SelfCheck(_Stored):
    """Result of the self-check of a model when it was loaded.

    Attributes:
        image_effect: How much another image changed the logits of the first token.
        batch_noise: How much neighbours in a batch changed them.
        batch_equals_singles: True if greedy answers of a batch were those of its items alone.
    """

    image_effect: float
    batch_noise: float
    batch_equals_singles: bool


class Serving(_Stored):
    """How an engine generates a model's answers.

    Attributes:
        path: "slots" for continuous batching, or "generate" for batches of transformers' own.
            Beam search and ranked labels always use the latter.
        why: Why there is no continuous batching.
        slots: Sequences that are decoded at the same time.
        slot_tokens: Tokens of a prompt and its answer; `generate` answers longer items.
    """

    path: Literal["slots", "generate"]
    why: str = ""
    slots: int = 0
    slot_tokens: int = 0


class ModelInfo(_Stored):
    """A loaded model, as its engine describes it.

    Attributes:
        style: "chat" for models with a chat template, "plain" for models that continue text.
        languages: Languages that it answers in; empty if unknown.
        follows_instructions: True if a caption can be requested in any wording.
        defaults: Options of the checkpoint, for requests that do not set them.
        checks: Result of the self-check; None for echo, as is `serving`.
        structured: True if its answers can be JSON of a schema, one of some choices, or matches of
            a pattern.
        fingerprint: Equal for engines with equal answers; "" turns the answer cache off.
        revision: Commit of the checkpoint at the hub; "" for a folder.
        variant: Equal for engines with the same checkpoint, adapter, template and options, also
            in different releases of idefiq; "" from an engine of release 0.2.
    """

    name: str
    family: str
    kinds: list[Kind]
    limits: ModelLimits
    license: str = Field(validation_alias=AliasChoices("license", "licence"))
    style: Style = "chat"
    languages: list[str] = []
    follows_instructions: bool = True
    structured: bool = False
    defaults: dict[str, Any] = {}
    checks: SelfCheck | None = None
    serving: Serving | None = None
    fingerprint: str = ""
    note: str = ""
    revision: str = ""
    variant: str = ""
    dtype: str = ""
    quantize: str = ""
    adapter: str = ""
    device: str = ""

    @computed_field(  # type: ignore[prop-decorator]
        description="The name of `license` in release 0.1", json_schema_extra={"deprecated": True}
    )
    @property
    def licence(self) -> str:
        """The license under the name that release 0.1 reads."""
        return self.license
