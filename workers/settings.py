"""Settings of the workers, read once in workers/__main__.py and handed down."""

import socket
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from db.settings import Count, Seconds, SubmissionSettings
from db.vocabulary.requests import MAX_NEW_TOKENS

_CONFIG = SettingsConfigDict(
    env_prefix="IDEFIQ_", frozen=True, extra="ignore", protected_namespaces=()
)


class BrokerSettings(BaseSettings):
    """How wakes travel. Losing Redis costs at most one poll interval."""

    model_config = _CONFIG

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="Redis that carries wakes: redis://, rediss:// or redis+socket://PATH",
    )


class WebhookSettings(BaseSettings):
    """Where webhooks may be: upkeep delivers them, and the API refuses what is elsewhere."""

    model_config = _CONFIG

    webhook_ports: frozenset[Annotated[int, Field(ge=1, le=65535)]] = Field(
        frozenset({80, 443}),
        description="Ports to which webhooks may be delivered, as JSON; the same for the API and"
        " upkeep",
    )
    webhook_networks: list[IPv4Network | IPv6Network] = Field(
        [],
        description="Private networks to which webhooks may be delivered, as JSON; the same for the"
        " API and upkeep",
    )


class WorkerSettings(BrokerSettings):
    """Settings of every worker."""

    worker_name: str = Field(
        default_factory=socket.gethostname,
        description="Unique name of this worker (default: the host name); when it restarts, what it"
        " had leased returns to the queue at once",
    )
    poll_seconds: Annotated[float, Field(ge=0.05, le=60)] = Field(
        1.0, description="Time between polls for work, in case a wake was lost"
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="Port where this worker serves /metrics for Prometheus; 0: nowhere"
    )
    metrics_host: str = Field("127.0.0.1", description="Address for the metrics to listen on")


class IntakeSettings(WorkerSettings):
    """How images are fetched and checked."""

    intake_children: Count = Field(2, description="Processes that check images")
    intake_fetches: Count = Field(
        32, description="Items taken in at the same time; one owner alone uses half of them"
    )
    max_image_bytes: Count = Field(20 * 2**20, description="Largest image file")
    max_image_pixels: Count = Field(50_000_000, description="Most pixels of an image")
    max_image_aspect: Annotated[float, Field(ge=1)] = Field(
        50.0, description="Highest ratio of the longer side of an image to the shorter"
    )
    check_seconds: Seconds = Field(
        20.0,
        description="Most processor time for a check of an image; on a busy machine the check may"
        " take four times as long",
    )
    check_memory_bytes: Annotated[int, Field(ge=2**28)] = Field(
        5 * 2**28, description="Most address space of a process that checks images"
    )
    fetch_connect_seconds: Seconds = Field(5.0, description="Timeout of a connection")
    fetch_read_seconds: Seconds = Field(10.0, description="Timeout of a read")
    fetch_total_seconds: Seconds = Field(
        30.0, description="Timeout of the whole download of an image"
    )
    fetch_redirects: Annotated[int, Field(ge=0, le=20)] = Field(4, description="Most redirects")
    fetch_per_host: Count = Field(4, description="Images fetched from one host at a time")
    fetch_ports: frozenset[Annotated[int, Field(ge=1, le=65535)]] = Field(
        frozenset({80, 443}), description="Ports from which images may be fetched, as JSON"
    )
    fetch_networks: list[IPv4Network | IPv6Network] = Field(
        [], description="Private networks from which images may be fetched, as JSON"
    )


class UpkeepSettings(WorkerSettings, WebhookSettings, SubmissionSettings):
    """How batches are checked, webhooks are delivered, and how long data is kept."""

    keep_jobs_days: Annotated[float, Field(ge=0)] = Field(
        0, description="Days after which a finished job is deleted with its results; 0: never"
    )
    keep_chats_days: Annotated[float, Field(ge=0)] = Field(
        1, description="The same for chat completions"
    )
    keep_images_days: Annotated[float, Field(ge=0)] = Field(
        30, description="Days after which an unused image that no job needs is deleted; 0: never"
    )

    @field_validator("keep_images_days")
    @classmethod
    def _is_longer_than_a_use_is_remembered(cls, days: float) -> float:
        if 0 < days < 1:
            raise ValueError("use at least a day, or 0 to keep images for ever")
        return days

    collect_hours: Annotated[float, Field(gt=0)] = Field(
        24, description="Hours between searches for unused images"
    )

    model_changed_seconds: Annotated[float, Field(ge=0)] = Field(
        60, description="How long a job waits for an engine of its variant before it pauses"
    )
    webhook_seconds: Annotated[float, Field(gt=0, le=30)] = Field(
        15.0, description="Timeout of a delivery to a webhook"
    )


class EngineSettings(WorkerSettings):
    """Which model an engine loads, and how."""

    model: str = Field(
        "demo",
        description="Model to serve: demo, echo, a folder, or a checkpoint such as"
        " HuggingFaceM4/idefics2-8b",
    )
    model_path: str = Field(
        "", description="Folder or hub name of the checkpoint, if it is not the model's own name"
    )
    model_revision: str = Field("", description="Commit of the checkpoint on the hub")
    model_licence: str = Field("", description="License of the checkpoint, shown by /v1/models")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="dtype of the weights; use bfloat16 on a GPU"
    )
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?|auto)$")] = Field(
        "cpu", description="Device of the model: cpu, cuda, cuda:N, or auto for all devices"
    )
    max_memory: dict[str, str] = Field(
        {},
        description="Device auto: most memory for weights on each device, as JSON such as"
        ' {"0": "70GiB", "cpu": "100GiB"}; the rest goes to the next device, and last to disk',
    )
    offload_folder: str = Field(
        "", description="Device auto: folder for weights that fit on no device"
    )
    quantize: Literal["none", "nf4", "nf4-all", "fp4", "int8"] = Field(
        "none",
        description="Quantize weights: nf4, fp4 and int8 skip the vision encoder and the connector,"
        " nf4-all does not; the LM head is never quantized. Only `none` for a checkpoint that is"
        " quantized already",
    )
    quantize_double: bool = Field(
        True, description="nf4 and fp4: double quantization, which saves 0.4 bits a weight"
    )
    attention: Literal["", "sdpa", "eager", "flash_attention_2"] = Field(
        "", description="Attention implementation (default: the choice of transformers)"
    )
    adapter: str = Field("", description="Folder of a LoRA adapter for the model")
    image_splitting: Literal["", "on", "off"] = Field(
        "",
        description="Idefics2 and Idefics3: split large images (default: as the checkpoint says)",
    )
    prompt_style: Literal["auto", "chat", "plain"] = Field(
        "auto",
        description="chat for instruction-tuned models, plain for base models that continue a"
        " text; auto decides from the checkpoint",
    )
    chat_template: str = Field(
        "", description="File with a chat template, for a checkpoint without one"
    )
    batch_items: Annotated[int, Field(ge=1, le=4096)] = Field(
        32, description="Most items of a claim, and of a batch of `generate`"
    )
    load_threads: Count = Field(
        4, description="Threads that read and decode images; use more for a distant blob store"
    )
    load_pixels: Count = Field(
        100_000_000,
        description="Most pixels that these threads decode at the same time; a pixel takes up to"
        " 16 bytes meanwhile",
    )
    engine: Literal["auto", "generate"] = Field(
        "auto",
        description="auto uses continuous batching where the model allows it; generate uses batches"
        " of `generate` of transformers",
    )
    slots: Annotated[int, Field(ge=0, le=1024)] = Field(
        0,
        description="Sequences decoded at the same time; 0: as many as fit in a share of free"
        " memory, at most 128 on a GPU and 64 on a CPU",
    )
    slot_tokens: Annotated[int, Field(ge=64)] = Field(
        2048,
        description="Most tokens of a sequence, prompt and answer; longer ones use `generate`",
    )
    decoding: Literal["exact", "fast"] = Field(
        "exact",
        description="fast decodes large JPEGs at a fraction of their size if the model needs no"
        " more; exact gives the pixels that transformers gives",
    )
    patches_at_once: Annotated[int, Field(ge=1)] = Field(
        32_768,
        description="Most image patches and most prompt tokens in one pass; halved when memory runs"
        " out",
    )
    invariant: bool = Field(
        False,
        description="Batch-invariant answers: prefill and encode images one at a time, so that no"
        " bit of an answer depends on other items; slower",
    )
    reuse_answers: bool = Field(
        True, description="Answer equal requests of an owner from the answer cache"
    )
    features_bytes: Annotated[int, Field(ge=0)] = Field(
        256 * 2**20,
        description="Memory of the image feature cache, and again as much for the prefix cache of"
        " solved examples",
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = Field(
        64, description="Default of the option max_new_tokens"
    )
    new_tokens_limit: Annotated[int, Field(ge=0, le=MAX_NEW_TOKENS)] = Field(
        0, description="Highest max_new_tokens of an item; 0: half of the model's context"
    )
    torch_threads: Annotated[int, Field(ge=0)] = Field(
        0, description="CPU threads of an operation; 0: the choice of torch"
    )
    echo_batch_seconds: Annotated[float, Field(ge=0)] = Field(
        0.0, description="echo only: duration of a full batch, to imitate a slower model"
    )
    stuck_seconds: Seconds = Field(
        600.0,
        description="A decode step, or a batch without a new token, that takes longer ends the"
        " process, so that another worker takes over",
    )
