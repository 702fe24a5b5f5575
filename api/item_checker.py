"""Checks submitted items against their job's defaults and its model, and stores `data:` images.

The database never holds bytes: a `data:` image becomes a blob, and its item refers to it.
"""

import base64
import binascii
import hashlib
import io
from typing import Any

import orjson

from api.schemas import ItemIn, JobIn
from api.services import Services
from db.blobs.store import image_key
from db.images import known_images
from db.queue import quotas, sessions
from db.queue.sessions import Offer
from db.queue.submissions import NewItem
from db.vocabulary.errors import RequestError, TooLarge, UnknownModel
from db.vocabulary.model_info import ModelInfo
from db.vocabulary.request_validation import validate_request
from db.vocabulary.requests import effective, example_references, image_references

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
    """Checks items against the job's defaults and its model, and stores `data:` images."""

    def __init__(self, services: Services, owner_id: int, job: JobIn) -> None:
        self._services, self._owner_id = services, owner_id
        with services.database.snapshot() as transaction:
            self.card = choose_model(sessions.offers(transaction), job.model)
        self.defaults = self._store_data(job.defaults.canonical())

    def check(self, item: ItemIn) -> NewItem:
        """Return the item in the form that is stored.

        Raises:
            RequestError: The model cannot answer it; `field` says what is wrong.
        """
        request = item.canonical()
        custom_id = request.pop("custom_id", None)
        validate_request(effective(self.defaults, request), self.card)
        return NewItem(self._store_data(request), custom_id)

    def _store_data(self, request: dict[str, Any]) -> dict[str, Any]:
        """Replace `data:` references by those of stored blobs.

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
            request["images"] = [self._stored(ref) for ref in request["images"]]
        for example in request.get("examples", ()):
            example["image"] = self._stored(example["image"])
        return request

    def _stored(self, reference: str) -> str:
        if not reference.startswith("data:"):
            return reference
        try:
            data = base64.b64decode(reference.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise RequestError("a data: image is not base64", field="images") from error
        if len(data) > self._services.settings.max_upload_bytes:
            raise TooLarge(
                f"a data: image has {len(data)} bytes; at most"
                f" {self._services.settings.max_upload_bytes} are taken",
                field="images",
            )
        digest = hashlib.sha256(data).hexdigest()
        with self._services.database.transaction() as transaction:
            quotas.check_upload(transaction, self._owner_id, self._services.limits, len(data))
            known_images.mark_used(transaction, self._owner_id, [digest], storing=True)
        self._services.store.put(image_key(self._owner_id, digest), io.BytesIO(data))
        # With a row it is collected some day, even if the submission is refused.
        with self._services.database.transaction() as transaction:
            known_images.add(transaction, self._owner_id, {digest: len(data)})
        return f"blob:{digest}"
