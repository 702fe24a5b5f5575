"""Models: what engines have offered, and whether it can be used now."""

from fastapi import APIRouter

from api.schemas import ModelOut, ModelsOut
from api.services import CurrentOwner, Parts
from db.queue import sessions
from db.queue.sessions import Offer
from db.vocabulary.errors import NotFound

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def list_models(services: Parts, owner: CurrentOwner) -> ModelsOut:
    """List every model with its family, kinds, limits, license and state."""
    with services.database.snapshot() as transaction:
        return ModelsOut(data=[_shown(offer) for offer in sessions.offers(transaction)])


@router.get("/{name:path}")
def get_model(name: str, services: Parts, owner: CurrentOwner) -> ModelOut:
    """Return one model."""
    with services.database.snapshot() as transaction:
        offers = sessions.offers(transaction)
    for offer in offers:
        if offer.card.name == name:
            return _shown(offer)
    raise NotFound(f"no such model: {name!r}")


def _shown(offer: Offer) -> ModelOut:
    return ModelOut(
        id=offer.card.name,
        created=int(offer.offered_at.timestamp()),
        owned_by="idefiq",
        card=offer.card,
        state="ready" if offer.workers else "offline",
        workers=offer.workers,
    )
