"""Captions, tables and images made at random: each is read, or refused by one line.

The examples are the same in every run. FUZZ=5000 tries as many others of each kind.
"""

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dalle_base.common.errors import UserError
from dalle_base.common.opening import FORMATS, UnreadableImageError, open_image
from dalle_base.data.caption_values import captions_in, mended
from dalle_base.data.sources.folder import FolderSource
from dalle_base.data.text import TextTokenizer
from dalle_base.data.text_training import train_text

EXAMPLES = int(os.environ.get("FUZZ", "0"))
BOUNDED = settings(
    max_examples=EXAMPLES or 15,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16", "PA")
ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(ANY_TEXT | st.sampled_from(["file_name", "image", "caption"]), inner)
    ),
    max_leaves=12,
)
KEYS = st.sampled_from(["file_name", "Image", "path", "caption", "TEXT", "sentences", "x", "id"])
NAMES = st.sampled_from(["0.png", "./0.png", "1", "deep\\2.png", "no.png", "", "/x/1.png", "..", 1])
ROWS = st.lists(st.dictionaries(KEYS, NAMES | JSON, max_size=4) | JSON, max_size=5)
TABLES = ("metadata.csv", "metadata.tsv", "captions.json", "metadata.jsonl")


@cache
def tokenizer() -> TextTokenizer:
    return train_text(["a cat", "a dog"], 300)


@contextmanager
def folder() -> Iterator[Path]:
    """Three images in a folder and one below it."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "deep").mkdir()
        for image in ("0.png", "1.png", "deep/2.png"):
            (place / image).touch()
        yield place


def read(place: Path) -> FolderSource | None:
    """Open a folder: None where it is refused by one line. Its captions are fit to train on."""
    try:
        source = FolderSource(str(place))
    except UserError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "\n" not in refusal
        return None
    for index in range(len(source)):
        captions = source.record(index).captions
        assert len(set(captions)) == len(captions)
        for caption in captions:
            assert tokenizer().tokens(caption)
    assert "\n" not in str(source.passed_over)
    return source


@cache
def writable() -> list[tuple[str, str]]:
    """The formats and modes that this Pillow can write."""
    Image.init()
    found = []
    for kind in sorted({*Image.SAVE} - {"ICNS"}):  # which is slow to write
        for mode in MODES:
            try:
                content_of(kind, mode)
            except Exception:
                continue
            found.append((kind, mode))
    return found


@cache
def content_of(kind: str, mode: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 4), dtype=np.uint8)
    deep = {"I": np.int32, "F": np.float32, "I;16": np.uint16}
    image = (
        Image.fromarray(noise[..., 0].astype(deep[mode]))
        if mode in deep
        else Image.fromarray(noise[..., :3]).convert(mode)
        if mode not in ("LAB", "PA")
        else Image.new(mode, (16, 16))
    )
    buffer = io.BytesIO()
    image.save(buffer, kind, speed=10)  # of AVIF alone
    return buffer.getvalue()


def opened(content: bytes) -> bool:
    """Whether an image is read; else it is refused by one line."""
    try:
        image = open_image(content, "an image")
    except UnreadableImageError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert refusal.startswith("an image: ")
        assert "\n" not in refusal
        return False
    assert image.mode == "RGB"
    assert np.asarray(image).size > 0
    return True


def readable_by_pillow(content: bytes) -> bool:
    """Whether Pillow reads what it wrote: not so an uncompressed TIFF in YCbCr, of Pillow 12."""
    try:
        Image.open(io.BytesIO(content)).load()
    except OSError:
        return False
    return True


def test_every_format_that_pillow_writes_is_read_or_refused() -> None:
    formats = {*FORMATS, "MPO"}  # which is a JPEG
    known = 0
    for kind, mode in writable():
        content = content_of(kind, mode)
        readable = kind in formats and readable_by_pillow(content)
        assert opened(content) == readable, (kind, mode)
        known += readable
    assert known > 30


@BOUNDED
@given(st.data())
def test_truncated_images_and_flipped_bits(data: st.DataObject) -> None:
    kind, mode = data.draw(st.sampled_from(writable()))
    content = bytearray(content_of(kind, mode))
    for place in data.draw(st.lists(st.integers(0, min(len(content), 400) * 8 - 1), max_size=4)):
        content[place // 8] ^= 1 << place % 8
    end = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    opened(bytes(content[:end]))


@BOUNDED
@given(st.sampled_from(FORMATS), st.binary(max_size=200))
def test_what_only_starts_like_an_image(kind: str, rest: bytes) -> None:
    start = content_of(kind, "L")[:12]
    opened(start + rest)
    opened(rest)


@BOUNDED
@given(st.lists(ANY_TEXT, min_size=1, max_size=3))
def test_captions_of_any_unicode_in_json(texts: list[str]) -> None:
    with folder() as place:
        row = {"file_name": "0.png", "caption": texts}
        (place / "metadata.jsonl").write_text(json.dumps(row))
        source = read(place)
        assert source is not None
        assert source.record(0).captions == tuple(captions_in(texts))
    for text in texts:
        assert captions_in(text) == [mended(text)] or not mended(text) or text.strip()[:1] == "["


@BOUNDED
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30), max_size=3),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_captions_of_any_unicode_in_a_table(
    texts: list[str], separator: str, encoding: str
) -> None:
    texts = [text for text in texts if not text.strip().startswith("[")]
    with folder() as place:
        with (place / "metadata.csv").open("w", newline="", encoding=encoding) as file:
            table = csv.writer(file, delimiter=separator)
            table.writerows([("file_name", "caption"), *(("1.png", text) for text in texts)])
        (place / "0.txt").write_text("\n".join(texts), encoding=encoding)
        source = read(place)
        assert source is not None
        wanted = tuple(dict.fromkeys(filter(None, map(mended, texts))))
        assert source.record(0).captions == source.record(1).captions == wanted


@BOUNDED
@given(JSON | ROWS, st.booleans(), st.sampled_from(["metadata.json", "captions.jsonl"]))
def test_tables_of_any_json(value: Any, by_line: bool, name: str) -> None:
    with folder() as place:
        lines = value if by_line and isinstance(value, list) else [value]
        (place / name).write_text("\n".join(map(json.dumps, lines)))
        read(place)


@BOUNDED
@given(st.sampled_from(TABLES), st.binary(max_size=100) | ANY_TEXT, st.sampled_from(["", "deep"]))
def test_tables_and_texts_of_any_content(name: str, content: bytes | str, below: str) -> None:
    if isinstance(content, str):
        content = f"file_name,caption\n{content}".encode("utf-8", "surrogatepass")
    with folder() as place:
        (place / below / name).write_bytes(content)
        read(place)
        (place / below / name).unlink()
        (place / "0.png.txt").write_bytes(content)
        assert read(place) is not None


@BOUNDED
@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1))
def test_files_of_any_name(name: str) -> None:
    with folder() as place:
        try:
            (place / name).touch()
            (place / f"{name}.png").touch()
        except OSError:  # too long, or a folder's
            return
        (place / "metadata.json").write_text(json.dumps({f"{name}.png": "a cat"}))
        source = read(place)
        assert source is not None
        assert not name.startswith(".") or len(source) == 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_a_bad_last_frame_is_not_looked_at(kind: str) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (0, 255)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    opened(buffer.getvalue()[:-20])
