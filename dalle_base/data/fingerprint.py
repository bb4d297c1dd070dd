"""What a source holds, told by a hash: the same images and captions elsewhere have the same."""

import hashlib
from pathlib import Path

from dalle_base.data.sources.base import Record, Source
from dalle_base.data.sources.streaming import StreamSource

MOST = 256
"""Records that are read for it, evenly spread: replacing others of a larger source goes unseen."""


def data_fingerprint(source: Source) -> str:
    """Return a short hash of a source's length and records, in their order, wherever they lie.

    "" for a source that is read as a stream.
    """
    if isinstance(source, StreamSource):
        return ""
    length = len(source)
    digest = hashlib.sha256(str(length).encode())
    for number in range(min(length, MOST)):
        digest.update(_content(source.record(number * length // min(length, MOST))))
    return digest.hexdigest()[:16]


def _content(record: Record) -> bytes:
    texts = {
        name: value
        for name, value in record._asdict().items()
        if value and name not in ("name", "image")
    }
    return repr(texts).encode("utf-8", errors="backslashreplace") + image_digest(record)


def image_digest(record: Record) -> bytes:
    """Return a hash of a record's image as it is stored; of one that cannot be read, of nothing."""
    image = record.image
    if isinstance(image, Path):
        try:
            # What is no plain file is no image either: reading a pipe would never end.
            image = image.read_bytes() if image.is_file() else b""
        except OSError:
            image = b""
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    if callable(image):  # drawn in code: its name says all
        return hashlib.sha256(record.name.encode("utf-8", "replace")).digest()
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).digest()
