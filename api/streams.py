"""Streaming of blobs to clients, piece by piece."""

from collections.abc import Iterator
from typing import IO

PIECE_BYTES = 256 * 1024


def pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield a blob's bytes, and close it at the end."""
    with stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece
