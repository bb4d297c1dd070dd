"""Images as PNG bytes of at most 128x128, transparency kept."""

import importlib
import io
from typing import Any

from PIL import Image

from dalle_base.common.errors import UserError

SIZE = 128


def small_png(content: bytes) -> bytes:
    """The image itself if it is a small PNG already, or else a small PNG of it."""
    with Image.open(io.BytesIO(content)) as image:
        fits = max(image.size) <= SIZE
        if fits and image.format == "PNG":
            return content
        image = image.convert("RGBA")
        if not fits:
            scale = SIZE / max(image.size)
            width, height = (max(1, round(side * scale)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        png = io.BytesIO()
        image.save(png, "PNG")
        return png.getvalue()


def icon_svg(icon: dict[str, Any], side: int = SIZE) -> str:
    """An iconify icon (its body, its box and whether it is flipped) as an SVG of `side` pixels."""
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", 16), icon.get("height", 16)
    body = icon["body"]
    if icon.get("hFlip"):
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    # resvg draws nothing sensible without a size in the root element.
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{side}" height="{side}" viewBox="{left} {top} {width} {height}">{body}</svg>'
    )


def render(svg: str) -> bytes:
    """The SVG drawn as PNG, at the size in its root element."""
    # System fonts would make the images depend on the machine; none of the icons has text.
    return bytes(_resvg().svg_to_bytes(svg_string=svg, skip_system_fonts=True))


def _resvg() -> Any:
    try:
        return importlib.import_module("resvg_py")
    except ImportError as error:
        raise UserError("resvg-py is needed to draw the SVGs: pip install -e .[corpora]") from error
