"""JSON of uploads of images."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Digests = Annotated[list[Digest], Field(max_length=10_000), FailFast()]


class ImageOut(BaseModel):
    """An uploaded image."""

    image: str = Field(description="Its reference, for `images` of an item")
    filename: str
    size_bytes: int


class ImagesOut(BaseModel):
    """Uploaded images, in the order of the request."""

    data: list[ImageOut]


class PresignOne(BaseModel):
    """An image that will be uploaded straight to the store."""

    model_config = ConfigDict(extra="forbid")

    sha256: Digest
    size_bytes: Annotated[int, Field(ge=1)]


PresignIn = Annotated[list[PresignOne], Field(min_length=1, max_length=1_000), FailFast()]


class PresignedOut(BaseModel):
    """A URL for the bytes of an image; intake rejects bytes with another digest."""

    image: str
    url: str
    method: str = "PUT"
    expires_seconds: int


class PresignOut(BaseModel):
    """URLs for several images, in the order of the request."""

    data: list[PresignedOut]
