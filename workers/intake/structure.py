"""Counts what makes an image file slow to decode, without decoding it.

A small file can say a lot of work: a progressive JPEG decodes all of its pixels once for each
scan, and a PNG may hold a million texts. Both are counted in one pass over the bytes.
"""

import re
import struct

from db.vocabulary.errors import ImageTooLarge

#: Encoders write about ten; each decodes the whole image once more.
MAX_JPEG_SCANS = 64
#: Segments of a JPEG or chunks of a PNG; a camera's file has dozens, a large PNG thousands.
MAX_PARTS = 20_000

#: The next marker of a JPEG behind compressed data, where FF 00 is a byte and D0 to D7 restart it.
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
#: Markers that stand alone.
_BARE = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})


def check_structure(data: bytes) -> None:
    """Reject an image file that has far more parts than a picture needs.

    Raises:
        ImageTooLarge: It has. A file that is broken is left to its decoder.
    """
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(data)


def _check_jpeg(data: bytes) -> None:
    scans = parts = 0
    at = 2
    while matched := _JPEG_MARKER.search(data, at):
        marker, at = matched[1][0], matched.end()
        if marker == _END_OF_IMAGE:
            return
        parts += 1
        scans += marker == _START_OF_SCAN
        if scans > MAX_JPEG_SCANS:
            raise ImageTooLarge(f"a JPEG of more than {MAX_JPEG_SCANS} scans")
        if parts > MAX_PARTS:
            raise ImageTooLarge(f"a JPEG of more than {MAX_PARTS} segments")
        if marker not in _BARE:
            if at + 2 > len(data):
                return
            at += max(2, struct.unpack_from(">H", data, at)[0])


def _check_png(data: bytes) -> None:
    at = 8
    for _ in range(MAX_PARTS):
        if at + 8 > len(data) or data[at + 4 : at + 8] == b"IEND":
            return
        at += 12 + int(struct.unpack_from(">I", data, at)[0])
    raise ImageTooLarge(f"a PNG of more than {MAX_PARTS} chunks")
