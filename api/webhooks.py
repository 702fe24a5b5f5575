"""Webhooks: notifications when jobs and batches end."""

from fastapi import APIRouter

from api.schemas import After, Limit, decode_cursor, encode_cursor
from api.services import CurrentOwner, Parts
from api.webhook_schemas import (
    DeliveryOut,
    DeliveryPage,
    WebhookIn,
    WebhookOut,
    WebhookPatch,
    WebhookWithSecret,
)
from db.vocabulary.errors import RequestError
from db.webhooks import endpoints, outbox
from workers.addresses import Refused, check_host, checked
from workers.broker import UPKEEP
from workers.settings import WebhookSettings

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])


@router.post("", status_code=201)
def create(wanted: WebhookIn, services: Parts, owner: CurrentOwner) -> WebhookWithSecret:
    """Create a webhook. Its secret is shown this once.

    422 if nothing could ever be delivered to the URL: its port, or an address that is not public.
    """
    _check_deliverable(str(wanted.url), services.settings)
    with services.database.transaction() as transaction:
        made = endpoints.add(transaction, owner.id, str(wanted.url), wanted.events)
    return WebhookWithSecret(secret=made.secret, **WebhookOut.of(made).model_dump())


def _check_deliverable(url: str, settings: WebhookSettings) -> None:
    try:
        _, host = checked(url, settings.webhook_ports)
        check_host(host, settings.webhook_networks)
    except Refused as error:
        raise RequestError(f"{error}; nothing could be delivered there", field="url") from error


@router.get("")
def list_webhooks(services: Parts, owner: CurrentOwner) -> list[WebhookOut]:
    """List the owner's webhooks, oldest first."""
    with services.database.snapshot() as transaction:
        return [WebhookOut.of(one) for one in endpoints.of_owner(transaction, owner.id)]


@router.get("/{webhook_id}")
def get_webhook(webhook_id: str, services: Parts, owner: CurrentOwner) -> WebhookOut:
    """Return one webhook."""
    with services.database.snapshot() as transaction:
        return WebhookOut.of(endpoints.get(transaction, owner.id, webhook_id))


@router.patch("/{webhook_id}")
def change(
    webhook_id: str, wanted: WebhookPatch, services: Parts, owner: CurrentOwner
) -> WebhookOut:
    """Enable or disable a webhook; one that answered 410 was disabled by itself."""
    with services.database.transaction() as transaction:
        found = endpoints.enable(transaction, owner.id, webhook_id, enabled=wanted.enabled)
    services.wakes.wake(UPKEEP)
    return WebhookOut.of(found)


@router.delete("/{webhook_id}", status_code=204)
def delete(webhook_id: str, services: Parts, owner: CurrentOwner) -> None:
    """Delete a webhook and its deliveries."""
    with services.database.transaction() as transaction:
        endpoints.remove(transaction, owner.id, webhook_id)


@router.post("/{webhook_id}/rotate")
def rotate(webhook_id: str, services: Parts, owner: CurrentOwner) -> WebhookWithSecret:
    """Create another secret. For a day, deliveries are signed with the old one too."""
    with services.database.transaction() as transaction:
        made = endpoints.rotate(transaction, owner.id, webhook_id)
    return WebhookWithSecret(secret=made.secret, **WebhookOut.of(made).model_dump())


@router.get("/{webhook_id}/deliveries")
def list_deliveries(
    webhook_id: str,
    services: Parts,
    owner: CurrentOwner,
    limit: Limit = 20,
    after: After = None,
) -> DeliveryPage:
    """List a webhook's deliveries of the last 30 days, newest first."""
    before = decode_cursor(after) if after else None
    with services.database.snapshot() as transaction:
        found = outbox.log(transaction, owner.id, webhook_id, before=before, limit=limit + 1)
    shown, more = found[:limit], len(found) > limit
    return DeliveryPage(
        data=[DeliveryOut.of(one) for one in shown],
        has_more=more,
        next=encode_cursor(shown[-1].id) if more else None,
    )


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver", status_code=202)
def redeliver(
    webhook_id: str, delivery_id: str, services: Parts, owner: CurrentOwner
) -> DeliveryOut:
    """Deliver one again, under the same `webhook-id`."""
    with services.database.transaction() as transaction:
        found = outbox.redeliver(transaction, owner.id, webhook_id, delivery_id)
    services.wakes.wake(UPKEEP)
    return DeliveryOut.of(found)
