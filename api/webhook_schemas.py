"""JSON of webhooks and their deliveries."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field

from db.webhooks import endpoints
from db.webhooks.endpoints import Webhook
from db.webhooks.outbox import Delivery


class WebhookIn(BaseModel):
    """A webhook to create: its URL and events."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[AnyHttpUrl, Field(max_length=2_000)]
    events: Annotated[list[Literal[*endpoints.EVENTS]], Field(max_length=20)] = Field(  # type: ignore[valid-type]
        [], description="All, if there are none"
    )


class WebhookPatch(BaseModel):
    """Fields of a webhook that can be changed."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool


class WebhookOut(BaseModel):
    """A webhook."""

    id: str
    url: str
    events: list[str]
    enabled: bool
    created_at: datetime

    @classmethod
    def of(cls, webhook: Webhook) -> "WebhookOut":
        """Build without the secret."""
        return cls(
            id=webhook.id,
            url=webhook.url,
            events=webhook.events.split(),
            enabled=webhook.disabled_at is None,
            created_at=webhook.created_at,
        )


class WebhookWithSecret(WebhookOut):
    """A webhook with its secret, when either was just created."""

    secret: str = Field(description="whsec_…, as Standard Webhooks has it; shown this once")


class DeliveryOut(BaseModel):
    """A delivery of a webhook and its attempts."""

    id: str = Field(description="The header `webhook-id`, the same in every attempt")
    event: str
    subject: str = Field(description="The job or batch that it is about")
    created_at: datetime
    attempts: int
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    status: int | None = Field(description="What the receiver answered last")
    problem: str | None

    @classmethod
    def of(cls, delivery: Delivery) -> "DeliveryOut":
        """Build from a delivery."""
        return cls(
            id=delivery.id,
            event=delivery.event,
            subject=delivery.subject,
            created_at=delivery.created_at,
            attempts=delivery.attempts,
            next_attempt_at=delivery.due_at,
            delivered_at=delivery.delivered_at,
            status=delivery.status,
            problem=delivery.problem,
        )


class DeliveryPage(BaseModel):
    """Deliveries, newest first."""

    data: list[DeliveryOut]
    has_more: bool
    next: str | None = Field(description="Cursor of the next page")
