"""What the page's other tabs do: classify an image, and find images for a caption."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dalle_base.common.errors import UserError
from dalle_base.common.opening import open_image, read_image
from dalle_web.drawing import LONGEST
from dual_encoder.rank import label_features, probabilities, similarities
from dual_encoder.ranker import Ranker

MOST_LABELS, MOST_IMAGES = 100, 64


def classify(ranker: Ranker, image: Image.Image | None, labels: str) -> dict[str, float]:
    """Return how likely each of the labels (one a line) is for an image. Raises `UserError`."""
    if image is None:
        raise UserError("Choose an image first.")
    lines = [line.strip() for line in (labels or "").splitlines() if line.strip()]
    if len(lines) > MOST_LABELS or any(len(line) > LONGEST for line in lines):
        raise UserError(f"Up to {MOST_LABELS} labels of {LONGEST:,} characters are read.")
    features = label_features(ranker, lines)
    found = probabilities(ranker, ranker.image_features([open_image(image)]), features)
    return dict(zip(lines, found[0].tolist(), strict=True))


def search(
    ranker: Ranker, images: Sequence[Image.Image], caption: str
) -> list[tuple[Image.Image, str]]:
    """Return images as they fit a caption, the best first, with scores. Raises `UserError`."""
    caption = " ".join((caption or "").split())
    if not caption or len(caption) > LONGEST:
        raise UserError(f"Write what to look for, in up to {LONGEST:,} characters.")
    if not images:
        raise UserError("There is nothing to search in: add images, or draw some first.")
    scores = similarities(ranker, images, [caption])[:, 0]
    order = scores.argsort(descending=True, stable=True).tolist()
    return [(images[i], f"score {scores[i]:.1f}") for i in order]


def opened(paths: Sequence[str | Path] | None, drawn: Sequence[Image.Image]) -> list[Image.Image]:
    """Return a visitor's files, and what has been drawn for them. Raises `UserError`."""
    paths = list(paths or [])
    if len(paths) > MOST_IMAGES:
        raise UserError(f"Up to {MOST_IMAGES} images are read, not {len(paths)}.")
    return [read_image(Path(path)) for path in paths] + list(drawn)[-MOST_IMAGES:]
