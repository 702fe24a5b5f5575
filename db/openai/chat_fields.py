"""Fields of the body of a chat completion: what each does here, or why it is refused.

The descriptions are those of docs/openai.md.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from db.openai.chat_messages import MessageIn
from db.openai.chat_structures import Choice, ResponseFormat, Tools

#: What these may be: anything else would need what this service does not do.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (None,),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "prediction": (None,),
    "reasoning_effort": (None, "none"),
    "top_logprobs": (None, 0),
    "verbosity": (None,),
    "web_search_options": (None,),
}


#: More than there are: each unknown one would be an error of its own.
MAX_FIELDS = 100
MAX_METADATA = 16


def _few(value: object) -> object:
    """Refuse many pairs at once: each wrong one would be an error of its own."""
    if isinstance(value, dict) and len(value) > MAX_METADATA:
        raise ValueError(f"at most {MAX_METADATA} pairs are taken, not {len(value)}")
    return value


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool | None = None


_NO_EFFECT = "Taken, and without effect"
#: A field that is taken only when it asks for nothing; see NEUTRAL.
_Neutral = Annotated[Any, Field(None)]


class ChatFields(BaseModel):
    """Fields of `POST /v1/chat/completions`, and of a line of a batch."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = Field(description="A model of `/v1/models`, or an alias")
    messages: Annotated[list[MessageIn], Field(min_length=1, max_length=100)] = Field(
        description="Texts, and images at most as many as the model takes. The role `developer` is"
        " `system`; `tool` is told as a user's text, as is `tool_calls` of an assistant"
    )
    max_completion_tokens: int | None = Field(None, description="As `max_tokens`, and before it")
    max_tokens: int | None = Field(
        None, description="Most tokens of the answer. Beyond the model's limit it is that limit"
    )
    temperature: Annotated[float, Field(ge=0, le=10)] | None = Field(
        None, description="0 takes the likeliest; left out, the checkpoint's own way"
    )
    top_p: float | None = Field(None, description="As in OpenAI's API; less than 1 means sampling")
    seed: int | None = Field(
        None, description="Sampling: the same seed gives the same answer of the same variant"
    )
    n: Annotated[int, Field(ge=1, le=8)] | None = Field(
        None,
        description="1 to 8 choices, each sampled with a seed of its own; not in a batch, and"
        " streamed one after the other",
    )
    stop: str | Annotated[list[str], Field(max_length=8)] | None = Field(
        None, description="Up to 8 texts, not 4; not with a structured answer"
    )
    presence_penalty: float | None = Field(None, description="As in OpenAI's API")
    frequency_penalty: float | None = Field(None, description="As in OpenAI's API")
    stream: bool | None = Field(None, description="As in OpenAI's API; not in a batch")
    stream_options: StreamOptions | None = Field(
        None, description="`include_usage`; anything else is without effect"
    )
    response_format: ResponseFormat | None = Field(
        None, description="`text`, `json_object`, `json_schema`; enforced, `strict` or not"
    )
    tools: Tools | None = Field(
        None, description="Functions; one is called only if `tool_choice` says that it must be"
    )
    tool_choice: Choice | None = Field(
        None,
        description="`none`, `required` or a function; `auto` only beside a `response_format`,"
        " which the answer then has",
    )

    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = Field(
        None, description="Ours: a JSON Schema for the answer"
    )
    choices: list[str] | None = Field(None, description="Ours: texts of which the answer is one")
    regex: str | None = Field(None, description="Ours: a pattern that the answer matches")
    top_k: int | None = Field(None, description="Ours: only so many of the likeliest tokens")
    min_p: float | None = Field(
        None, description="Ours: only tokens at least this likely, compared to the likeliest"
    )
    min_new_tokens: int | None = Field(None, description="Ours: fewest tokens of the answer")
    num_beams: int | None = Field(None, description="Ours: beams")
    length_penalty: float | None = Field(None, description="Ours: above 0 favours longer beams")
    repetition_penalty: float | None = Field(None, description="Ours: above 1 repeats less")
    no_repeat_ngram_size: int | None = Field(
        None, description="Ours: no run of so many tokens comes twice"
    )

    metadata: Annotated[dict[str, str] | None, BeforeValidator(_few)] = Field(
        None, description=_NO_EFFECT
    )
    parallel_tool_calls: bool | None = Field(
        None, description="Without effect: an answer calls one tool at most"
    )
    prompt_cache_key: str | None = Field(None, description=_NO_EFFECT)
    prompt_cache_options: Any = Field(None, description=_NO_EFFECT)
    prompt_cache_retention: str | None = Field(None, description=_NO_EFFECT)
    safety_identifier: str | None = Field(None, description=_NO_EFFECT)
    service_tier: str | None = Field(None, description=_NO_EFFECT)
    store: bool | None = Field(None, description=_NO_EFFECT)
    user: str | None = Field(None, description=_NO_EFFECT)

    audio: _Neutral
    function_call: _Neutral
    functions: _Neutral
    logit_bias: _Neutral
    logprobs: _Neutral
    modalities: _Neutral
    moderation: _Neutral
    prediction: _Neutral
    reasoning_effort: _Neutral
    top_logprobs: _Neutral
    verbosity: _Neutral
    web_search_options: _Neutral

    @field_validator(*NEUTRAL)
    @classmethod
    def _neutral(cls, value: Any, info: ValidationInfo) -> Any:
        if value not in NEUTRAL[str(info.field_name)]:
            raise ValueError("not supported by this service; leave it out")
        return value
