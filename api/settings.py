"""Settings of the API, read once in api/__main__.py and handed down."""

import ipaddress
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from db.settings import Count, SubmissionSettings
from workers.settings import BrokerSettings, WebhookSettings

NotNegative = Annotated[float, Field(ge=0)]
#: No setting allows more: a longer list is refused while it is read.
MAX_ITEMS = 10_000


class Price(BaseModel):
    """What a model costs: prices that add up, each 0 if left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    item: NotNegative = 0.0
    image: NotNegative = 0.0
    million_prompt_tokens: NotNegative = 0.0
    million_completion_tokens: NotNegative = 0.0
    device_hour: NotNegative = 0.0


class ApiSettings(BrokerSettings, WebhookSettings, SubmissionSettings):
    """Where the API listens, and its limits."""

    model_config = SettingsConfigDict(env_prefix="IDEFIQ_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port to listen on")
    keys: Literal["beyond-loopback", "always"] = Field(
        "beyond-loopback",
        description="When an API key is required: if the API listens beyond loopback, or always",
    )
    max_connections: Count = Field(
        4096,
        description="Most connections of clients; one address alone, a proxy for example, may have"
        " half of them. Fewer if the process may not open so many files",
    )
    header_seconds: Annotated[float, Field(gt=0)] = Field(
        10.0, description="Longest wait for the headers of a request, in seconds"
    )
    max_body_bytes: Count = Field(8 * 2**20, description="Largest JSON body")
    max_upload_request_bytes: Count = Field(
        64 * 2**20, description="Largest request that uploads images"
    )
    max_items: Annotated[int, Field(ge=1, le=MAX_ITEMS)] = Field(
        MAX_ITEMS, description="Most items of a job submitted as JSON"
    )
    max_stream_bytes: Count = Field(4 * 2**30, description="Largest streamed submission")
    max_wait_seconds: Annotated[int, Field(ge=0, le=600)] = Field(
        60, description="Longest wait of a request with `Prefer: wait=N`"
    )
    max_chat_seconds: Count = Field(
        600, description="Timeout of a chat completion, which is then cancelled"
    )
    cors_origins: frozenset[str] = Field(
        frozenset(),
        description="Origins whose pages may call the API from a browser, with an API key, as JSON,"
        ' such as ["https://photos.example"]',
    )
    prices: dict[str, Price] = Field(
        {},
        description="Prices by model, as JSON; `*` is any other. Of each: item, image,"
        " million_prompt_tokens, million_completion_tokens, device_hour",
    )
    currency: str = Field("", description="Currency of the prices, shown beside costs")

    @property
    def keys_required(self) -> bool:
        """True if a request without an API key is refused."""
        return self.keys == "always" or not _is_loopback(self.host)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
