"""Models: what workers have offered, and whether it can be used now."""

from fastapi import APIRouter

from api.schemas import ModelOut, ModelsOut
from api.services import CurrentOwner, Parts
from db import sessions

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def list_models(services: Parts, owner: CurrentOwner) -> ModelsOut:
    """Every model with its family, kinds, limits, licence and state."""
    with services.database.snapshot() as transaction:
        offers = sessions.offers(transaction)
    return ModelsOut(
        data=[
            ModelOut(
                card=offer.card,
                state="ready" if offer.workers else "offline",
                workers=offer.workers,
            )
            for offer in offers
        ]
    )
