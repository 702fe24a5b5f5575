"""Settings of the workers, read once in workers/__main__.py and handed down."""

import socket
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from db.requests import MAX_NEW_TOKENS

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
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


class WorkerSettings(BrokerSettings):
    """Settings of every worker."""

    worker_name: str = Field(
        default_factory=socket.gethostname,
        description="Name of this worker, its own among all: a restart under it frees at once"
        " what its dead self held",
    )
    poll_seconds: Annotated[float, Field(ge=0.05, le=60)] = Field(
        1.0, description="How often a worker looks for work that no wake told it of"
    )


class IntakeSettings(WorkerSettings):
    """How images are fetched and checked."""

    intake_children: Count = Field(2, description="Processes that check images")
    intake_fetches: Count = Field(16, description="Images fetched at the same time")
    max_image_bytes: Count = Field(20 * 2**20, description="Largest image file, in bytes")
    max_image_pixels: Count = Field(50_000_000, description="Most pixels of an image")
    max_image_aspect: Annotated[float, Field(ge=1)] = Field(
        50.0, description="Longest side of an image divided by its shortest, at most"
    )
    check_seconds: Seconds = Field(20.0, description="Longest time one check may take")
    check_memory_bytes: Annotated[int, Field(ge=2**28)] = Field(
        2**31, description="Most address space of a process that checks images, in bytes"
    )
    fetch_connect_seconds: Seconds = Field(5.0, description="Longest wait for a connection")
    fetch_read_seconds: Seconds = Field(10.0, description="Longest wait for the next bytes")
    fetch_total_seconds: Seconds = Field(30.0, description="Longest time for a whole image")
    fetch_redirects: Annotated[int, Field(ge=0, le=20)] = Field(4, description="Most redirects")
    fetch_per_host: Count = Field(4, description="Images fetched from one host at a time")
    fetch_ports: frozenset[Annotated[int, Field(ge=1, le=65535)]] = Field(
        frozenset({80, 443}), description="Ports from which images may be fetched, as JSON"
    )
    fetch_networks: list[IPv4Network | IPv6Network] = Field(
        [], description="Networks beyond the public ones from which images may be fetched, as JSON"
    )


class UpkeepSettings(WorkerSettings):
    """How webhooks are delivered, and how long data is kept."""

    keep_jobs_days: Annotated[float, Field(ge=0)] = Field(
        0, description="Finished jobs, with items and results, are deleted after this; 0: never"
    )
    keep_chats_days: Annotated[float, Field(ge=0)] = Field(
        1, description="The same for conversations of OpenAI's clients"
    )
    keep_images_days: Annotated[float, Field(ge=0)] = Field(
        30, description="Images in no job that is kept are deleted when unused so long; 0: never"
    )

    @field_validator("keep_images_days")
    @classmethod
    def _is_longer_than_a_use_is_remembered(cls, days: float) -> float:
        if 0 < days < 1:
            raise ValueError("use at least a day, or 0 to keep images for ever")
        return days

    collect_hours: Annotated[float, Field(gt=0)] = Field(
        24, description="How often unused images are looked for"
    )

    webhook_seconds: Annotated[float, Field(gt=0, le=30)] = Field(
        15.0, description="Longest wait for a webhook's receiver"
    )
    webhook_ports: frozenset[Annotated[int, Field(ge=1, le=65535)]] = Field(
        frozenset({80, 443}), description="Ports to which webhooks may be delivered, as JSON"
    )
    webhook_networks: list[IPv4Network | IPv6Network] = Field(
        [], description="Networks beyond the public ones to which webhooks may go, as JSON"
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
        "float32", description="Number format of the weights; bfloat16 on a GPU"
    )
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?|auto)$")] = Field(
        "cpu", description="Where the model runs: cpu, cuda, cuda:N, or auto for all there are"
    )
    max_memory: dict[str, str] = Field(
        {},
        description="Device auto: most memory for weights by device, as JSON such as"
        ' {"0": "70GiB", "cpu": "100GiB"}; what does not fit goes on to the next, last to disk',
    )
    offload_folder: str = Field("", description="Device auto: where weights go that fit nowhere")
    quantize: Literal["none", "nf4", "nf4-all", "int8"] = Field(
        "none",
        description="Smaller weights: nf4 and int8 leave what sees and the last layer as they"
        " are, nf4-all does not",
    )
    quantize_double: bool = Field(
        True, description="nf4: quantise its constants too, 0.4 bits less for each weight"
    )
    attention: Literal["", "sdpa", "eager", "flash_attention_2"] = Field(
        "", description="Implementation of attention; the library's choice if empty"
    )
    adapter: str = Field("", description="Folder of a LoRA adapter to put on top of the model")
    image_splitting: Literal["", "on", "off"] = Field(
        "",
        description="Idefics2 and 3: cut large images into parts; the checkpoint's choice if empty",
    )
    prompt_style: Literal["auto", "chat", "plain"] = Field(
        "auto",
        description="chat for models that take turns, plain for base models that continue a"
        " text; auto asks the checkpoint",
    )
    chat_template: str = Field(
        "", description="File with a chat template, for a checkpoint that brings none"
    )
    batch_items: Annotated[int, Field(ge=1, le=4096)] = Field(
        32, description="Most items that are claimed together, and in a batch of generate"
    )
    load_threads: Count = Field(
        4, description="Threads that read and decode images; more where the blob store is far away"
    )
    engine: Literal["auto", "generate"] = Field(
        "auto",
        description="auto answers in slots what can be; generate leaves everything to the library,"
        " in batches",
    )
    slots: Annotated[int, Field(ge=0, le=1024)] = Field(
        0, description="Items that are answered at the same time; 0 measures what fits"
    )
    slot_tokens: Annotated[int, Field(ge=64)] = Field(
        2048,
        description="Tokens of a slot, prompt and answer; what is longer is answered by generate",
    )
    decoding: Literal["exact", "fast"] = Field(
        "exact",
        description="fast decodes large JPEGs at a fraction of their size where the model wants no"
        " more; exact has the pixels of transformers",
    )
    patches_at_once: Annotated[int, Field(ge=1)] = Field(
        32_768, description="Most patches of pictures in one pass; fewer if they do not fit"
    )
    invariant: bool = Field(
        False,
        description="Read prompts and pictures one by one, and let generate answer one item at a"
        " time, so that not even the last bit of an answer depends on its neighbours; slower",
    )
    reuse_answers: bool = Field(
        True, description="Answer what an owner asks twice of the same picture only once"
    )
    features_bytes: Annotated[int, Field(ge=0)] = Field(
        256 * 2**20,
        description="Memory for what a model has made of pictures, for more questions about them,"
        " and again as much for solved examples",
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = Field(
        64, description="Most tokens of an answer to an item that asks for no number"
    )
    new_tokens_limit: Annotated[int, Field(ge=0, le=MAX_NEW_TOKENS)] = Field(
        0, description="Most tokens that an item may ask for; 0: half of the model's context"
    )
    torch_threads: Annotated[int, Field(ge=0)] = Field(
        0, description="Threads of one operation on a CPU; 0 leaves it to torch"
    )
    echo_batch_seconds: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Echo only: how long a full batch takes, to rehearse a model's pace"
    )
    stuck_seconds: Seconds = Field(
        600.0,
        description="A batch, or a step of all slots, that takes longer ends the process, so that"
        " others take over",
    )
