"""The one opener of images: orientation, depth, modes, and what is no image at all."""

import io
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dalle_base.common import opening
from dalle_base.common.opening import UnreadableImageError, open_image

RAMP = np.linspace(0, 1, 256)[None].repeat(3, axis=0)
"""From black to white, each of the 256 greys once."""


def content_of(image: Image.Image, kind: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(content: bytes) -> np.ndarray:
    return np.asarray(open_image(content)).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_an_orientation_in_the_metadata_is_applied(kind: str, orientation: int) -> None:
    # A red corner, top left once upright; the file stores what the orientation turns into that.
    upright = Image.new("RGB", (48, 32), "white")
    upright.paste("red", (0, 0, 16, 16))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = opened(content_of(stored, kind, exif=exif))
    assert found.shape == (32, 48, 3)
    assert (abs(found[4:12, 4:12] - [255, 0, 0]) < 40).all()
    assert (abs(found[20:, 20:] - 255) < 40).all()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((RAMP * 65535).round().astype(np.uint16), "png"),
        ((RAMP * 65535).round().astype(np.uint16), "tiff"),
        ((RAMP * 255).round().astype(np.int32), "tiff"),
        ((RAMP * 65535).round().astype(np.int32), "tiff"),
        ((RAMP * (2**31 - 1)).round().astype(np.int32), "tiff"),
        ((RAMP * 2000 - 1000).round().astype(np.int32), "tiff"),
        (RAMP.astype(np.float32), "tiff"),
        ((RAMP * 2 - 1).astype(np.float32), "tiff"),
        ((RAMP * 255).astype(np.float32), "tiff"),
        ((RAMP * 65535).astype(np.float32), "tiff"),
        ((RAMP * 1e7).astype(np.float32), "tiff"),
    ],
)
def test_more_than_8_bits_are_scaled_and_not_clipped(values: np.ndarray, kind: str) -> None:
    found = opened(content_of(Image.fromarray(values), kind))
    assert abs(found - np.arange(256)[None, :, None]).max() <= 1


def test_integers_of_32_bits_without_a_sign_are_read_as_that() -> None:
    values = (RAMP * (2**32 - 1)).round().astype(np.uint32).view(np.int32)
    content = content_of(Image.fromarray(values), "tiff")
    signed = b"\x53\x01\x03\x00\x01\x00\x00\x00\x02\x00"  # SampleFormat, one SHORT: 2
    assert content.count(signed) == 1
    found = opened(content.replace(signed, signed[:8] + b"\x01\x00"))
    assert abs(found - np.arange(256)[None, :, None]).max() <= 1


def test_a_dark_16_bit_image_stays_dark_and_constants_are_no_division_by_zero() -> None:
    dark = opened(content_of(Image.fromarray(np.full((4, 4), 257, np.uint16))))
    assert (dark == 1).all()
    for value in (0, -5, 7):
        opened(content_of(Image.fromarray(np.full((4, 4), value, np.int32)), "tiff"))
    odd = np.array([[np.nan, np.inf, -np.inf, 0.5]], np.float32)
    assert opened(content_of(Image.fromarray(odd), "tiff"))[0, :, 0].tolist() == [0, 0, 0, 128]
    opened(content_of(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "tiff"))


def test_transparent_pixels_are_white_in_every_mode() -> None:
    clear = Image.new("RGBA", (8, 8), (9, 9, 9, 0))
    for mode, kind in [("RGBA", "png"), ("LA", "png"), ("RGBA", "webp"), ("RGBA", "tiff")]:
        assert opened(content_of(clear.convert(mode), kind, **LOSSLESS.get(kind, {}))).min() == 255
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert opened(content_of(palette, "png", transparency=1)).min() == 255
    assert opened(content_of(palette, "gif", transparency=1)).min() == 255
    assert opened(content_of(palette, "png", transparency=b"\xff\x00")).min() == 255
    assert opened(content_of(Image.new("L", (8, 8), 9), "png", transparency=9)).min() == 255
    grey = Image.fromarray(np.full((8, 8), 9, np.uint16))
    assert opened(content_of(grey, "png", transparency=9)).min() == 255
    assert (opened(content_of(grey, "png")) == 0).all()


LOSSLESS = {"webp": {"lossless": True, "exact": True}}


@pytest.mark.parametrize(
    ("mode", "colour", "wanted"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 90, (90, 90, 90)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("YCbCr", (255, 128, 128), (255, 255, 255)),
        ("YCbCr", (76, 85, 255), (254, 0, 0)),
        ("LAB", (255, 128, 128), (255, 255, 255)),
        ("LAB", (136, 208, 195), (255, 0, 0)),
        ("HSV", (170, 255, 255), (0, 0, 255)),
        ("RGBX", (9, 99, 199, 0), (9, 99, 199)),
        ("RGBa", (50, 0, 0, 50), (255, 205, 205)),
        ("La", (0, 100), (155, 155, 155)),
    ],
)
def test_every_mode_becomes_the_colours_that_it_stands_for(
    mode: str, colour: tuple[int, ...], wanted: tuple[int, int, int]
) -> None:
    image = Image.new(mode, (4, 4), colour)
    off = 12 if mode == "LAB" else 3  # its white is another one
    assert abs(np.asarray(open_image(image))[0, 0].astype(int) - wanted).max() <= off
    if mode not in ("HSV", "RGBa", "La"):  # which no file that is read has
        # Pillow 12 does not read what it writes in YCbCr without compression.
        how = {"compression": "tiff_lzw"} if mode == "YCbCr" else {}
        assert abs(opened(content_of(image, "tiff", **how))[0, 0] - wanted).max() <= off


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("gif", "webp", "png", "tiff", "avif"):
        content = content_of(frames[0], kind, save_all=True, append_images=frames[1:])
        assert abs(opened(content)[0, 0] - [255, 0, 0]).max() < 8, kind


def test_formats_for_which_another_program_would_run_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    eps = content_of(Image.new("RGB", (8, 8), "red"), "eps")
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program"))
    with pytest.raises(UnreadableImageError, match=r"a\.eps: .*no image of a format that is read"):
        open_image(eps, "a.eps")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe, place = tmp_path / "pipe.png", tmp_path / "s.png"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        for path in (pipe, place, tmp_path, Path("/dev/zero")):
            with pytest.raises(UnreadableImageError, match="no regular file"):
                open_image(path, path.name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"GIF89a", "damaged, or no image"), (b"text", "no image")],
)
def test_the_reason_is_one_line_that_names_the_image(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=f"^a\\?b: .*{reason}") as error:
        open_image(content, "a\nb")
    assert "\n" not in str(error.value)
    assert "0x" not in str(error.value)  # of no use to anyone: an object's address


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"x\.png: No such file"):
        open_image(tmp_path / "x.png", "x.png")


def test_an_image_of_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = content_of(Image.new("1", (8, 8)))
    header = content[12:16] + struct.pack(">II", 20_000, 10_000) + content[24:29]
    content = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    with pytest.raises(UnreadableImageError, match=r"up to 178,956,970 are read"):
        open_image(content, "big.png")
    monkeypatch.setattr(opening, "MOST_PIXELS", 63)
    with pytest.raises(UnreadableImageError, match="up to 63"):
        open_image(content_of(Image.new("L", (8, 8))))
    monkeypatch.setattr(opening, "MOST_PIXELS", 64)
    open_image(content_of(Image.new("L", (8, 8))))


def test_a_file_of_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UnreadableImageError, match=r"a file of 1024\.0 GB"):
        open_image(path, "sparse.png")


def test_damaged_metadata_does_not_cost_the_image() -> None:
    content = content_of(Image.new("RGB", (8, 8), "red"), "jpeg", exif=b"Exif\0\0II*\0\xff\xff\xff")
    assert opened(content).shape == (8, 8, 3)


def test_an_error_in_code_that_renders_an_image_is_not_hidden() -> None:
    def render() -> Image.Image:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        open_image(render)
