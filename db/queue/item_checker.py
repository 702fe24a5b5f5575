"""Checks submitted items against their job's defaults and its model."""

from typing import Any

import orjson

from db.grammars.checks import check_structure
from db.queue.data_images import DataImages
from db.queue.sessions import Offer
from db.queue.submissions import NewItem
from db.vocabulary.errors import RequestError, UnknownModel
from db.vocabulary.model_info import ModelInfo
from db.vocabulary.request_validation import validate_request
from db.vocabulary.requests import (
    ItemIn,
    Request,
    effective,
    example_references,
    image_references,
)
from db.vocabulary.structures import structure_of

#: Of one item, or of the defaults of a job, with references where images were.
MAX_REQUEST_BYTES = 256 * 2**10


def choose_model(offers: list[Offer], name: str | None) -> ModelInfo:
    """Return the info of the model that a job names, or of the only one.

    Raises:
        UnknownModel: There is no such model, or the choice is not clear.
    """
    known = {offer.card.name: offer.card for offer in offers}
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if name in known:
        return known[name]
    listed = ", ".join(sorted(known)) or "none yet; start an engine worker"
    wrong = f"no such model: {name!r}" if name else "say which model"
    raise UnknownModel(f"{wrong}; known models: {listed}", field="model")


class ItemChecker:
    """Checks items against the job's defaults and its model.

    Attributes:
        images: The `data:` images of what was checked; to be stored before the job is made.
    """

    def __init__(self, card: ModelInfo, images: DataImages, defaults: Request) -> None:
        self.card, self.images = card, images
        self.defaults = self._take_data(defaults.canonical())

    def check(self, item: ItemIn) -> NewItem:
        """Return the item in the form that is stored.

        Raises:
            RequestError: The model cannot answer it; `field` says what is wrong.
        """
        request = item.canonical()
        custom_id = request.pop("custom_id", None)
        whole = effective(self.defaults, request)
        validate_request(whole, self.card)
        taken = self._take_data(request)
        if structure := structure_of(whole):
            check_structure(structure, self.images.owner_id)
        return NewItem(taken, custom_id)

    def _take_data(self, request: dict[str, Any]) -> dict[str, Any]:
        """Replace `data:` references by those of the blobs that they become.

        All else is bounded: pages of items are held in memory at once.
        """
        shown = [*image_references(request), *example_references(request)]
        data = sum(len(reference) for reference in shown if reference.startswith("data:"))
        if (size := len(orjson.dumps(request)) - data) > MAX_REQUEST_BYTES:
            raise RequestError(
                f"{size} bytes beside its images; an item, or the defaults of a job, may have"
                f" {MAX_REQUEST_BYTES}"
            )
        if "images" in request:
            request["images"] = [
                self.images.reference(reference, f"images.{number}")
                for number, reference in enumerate(request["images"])
            ]
        for number, example in enumerate(request.get("examples", ())):
            example["image"] = self.images.reference(example["image"], f"examples.{number}.image")
        return request
