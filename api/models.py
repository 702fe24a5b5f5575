"""Models: what engines have offered, and whether it can be used now."""

from fastapi import APIRouter

from api.schemas import ModelOut, ModelsOut
from api.services import CurrentOwner, Parts, Services
from db.queue import sessions
from db.queue.sessions import Offer
from db.vocabulary.errors import NotFound

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def list_models(services: Parts, owner: CurrentOwner) -> ModelsOut:
    """List every model, and every alias of one, with its family, kinds, limits and state."""
    return ModelsOut(data=[_shown(name, offer) for name, offer in _named(services).items()])


@router.get("/{name:path}")
def get_model(name: str, services: Parts, owner: CurrentOwner) -> ModelOut:
    """Return one model, by its name or an alias."""
    if offer := _named(services).get(name):
        return _shown(name, offer)
    raise NotFound(f"no such model: {name!r}")


def _named(services: Services) -> dict[str, Offer]:
    with services.database.snapshot() as transaction:
        offers = {offer.card.name: offer for offer in sessions.offers(transaction)}
    aliases = services.settings.model_aliases.items()
    return offers | {alias: offers[name] for alias, name in aliases if name in offers}


def _shown(name: str, offer: Offer) -> ModelOut:
    return ModelOut(
        id=name,
        created=int(offer.offered_at.timestamp()),
        owned_by="idefiq",
        card=offer.card,
        state="ready" if offer.workers else "offline",
        workers=offer.workers,
    )
