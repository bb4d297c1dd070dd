"""The checker: reads an image back into objects and says what of a caption is true of it.

Made for sampled images: soft edges, noise and slightly wrong colours change nothing.
An image is read in steps: find the inked pixels; name each one's colour; gather neighbours of one
colour into an object; bring the object's outline to a standard area and position; and compare it
with the outlines of the known shapes, brought there in the same way.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import permutations, product

import numpy as np
from PIL import Image, ImageFilter

from dalle_base.common.errors import UserError
from dalle_base.data.shapes.captions import parse_caption
from dalle_base.data.shapes.drawing import PALETTE, render
from dalle_base.data.shapes.scenes import WIDTHS, Description, Scene, SceneObject, relation_between
from dalle_base.data.shapes.words import SHAPES

READING_SIDE = 64  # images of any size are read at this many pixels a side
SMOOTHING = 0.7  # radius in reading pixels: halves the noise, and keeps what is thinnest
INK = 0.6  # a pixel with this share of its colour belongs to an object's body
INK_LEVEL = INK * 230  # the same of the channel most absorbed, which is near 230 for all colours
SPECK = 20  # bodies of fewer reading pixels are specks; the smallest object has some 50
MOST_OBJECTS = 6  # only the largest are told apart, to bound the work on a spoilt image
STANDARD_SIDE = 20
UNKNOWN = "unknown"  # the shape of a body that resembles none
LEAST_LIKENESS = 0.94  # blurred and noisy shapes stay above 0.97; a 3:2 ellipse has 0.87
TEMPLATE_BLURS = (0.0, 1.2, 2.0)  # radii in reading pixels: a network's edges are seldom sharp
SIZE_LIMIT = (WIDTHS["small"][1] * WIDTHS["large"][0]) ** 0.5

_NAMES = tuple(PALETTE)
_DYES = 255.0 - np.array([PALETTE[name] for name in _NAMES])  # (colours, 3): white less colour


@dataclass(frozen=True)
class ObservedObject:
    """An object as it was read. Lengths are fractions of the image's side."""

    colour: str
    shape: str
    """A name in SHAPES, or "unknown" where `likeness` is below 0.94."""
    size: str
    """small or large."""
    x: float
    """Centre of its bounding box, from the left."""
    y: float
    """Centre of its bounding box, from the top."""
    width: float
    """Side of its bounding box."""
    likeness: float
    """How well the outline fits the likeliest shape, 1 at best."""


@dataclass(frozen=True)
class CheckResult:
    """Which attributes of a caption hold in an image: one bool for each that the caption states.

    Objects and relations come in order of mention.
    """

    count: tuple[bool, ...]
    """One entry: whether the image has as many objects as the caption."""
    colour: tuple[bool, ...]
    shape: tuple[bool, ...]
    size: tuple[bool, ...]
    """Entries for stated sizes only."""
    relation: tuple[bool, ...]

    @property
    def exact(self) -> bool:
        """Whether everything holds and nothing else is in the image."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """The kinds of attribute of which at least one does not hold."""
        return tuple(kind for kind in KINDS if not all(getattr(self, kind)))


KINDS = tuple(field.name for field in fields(CheckResult))


def check(image: Image.Image, caption: str) -> CheckResult:
    """Return which attributes of a caption hold in a square image.

    Described objects are matched to observed ones so that most attributes hold.

    Raises:
        UserError: a caption outside the grammar, or an image that is not square.
    """
    wanted = parse_caption(caption)
    seen: list[ObservedObject | None] = [*read_objects(image)]
    count = len(seen) == len(wanted.objects)
    seen += [None] * (len(wanted.objects) - len(seen))

    def judge(matched: tuple[ObservedObject | None, ...]) -> CheckResult:
        pairs = list(zip(wanted.objects, matched, strict=True))
        return CheckResult(
            count=(count,),
            colour=tuple(_agree(want, got, "colour") for want, got in pairs),
            shape=tuple(_agree(want, got, "shape") for want, got in pairs),
            size=tuple(_agree(want, got, "size") for want, got in pairs if want.size),
            relation=tuple(
                _related(matched[r.subject], r.name, matched[r.object]) for r in wanted.relations
            ),
        )

    results = map(judge, permutations(seen, len(wanted.objects)))
    return max(results, key=_agreement)


def summarise(results: Iterable[CheckResult]) -> dict[str, float]:
    """Return the rate of exact images and, for each kind, of attributes that hold.

    Raises `UserError` where there are no results.
    """
    results = list(results)
    if not results:
        raise UserError("no images were checked, so there is nothing to summarise")
    return {name: sum(held) / sum(stated) for name, (held, stated) in tallies(results).items()}


def tallies(results: Sequence[CheckResult]) -> dict[str, tuple[list[int], list[int]]]:
    """Return what holds of each image, and of how much: `exact` of one, attributes by kind.

    Kinds of which no caption states any are left out.
    """
    found = {"exact": ([int(result.exact) for result in results], [1] * len(results))}
    for kind in KINDS:
        attributes = [getattr(result, kind) for result in results]
        stated = [len(each) for each in attributes]
        if any(stated):
            found[kind] = ([sum(map(bool, each)) for each in attributes], stated)
    return found


def read_objects(image: Image.Image) -> list[ObservedObject]:
    """Return the objects of a square image of any size, the largest first, at most six of them.

    Raises `UserError` for an image that is not square.
    """
    ink = _absorbed(image)
    bodies = _bodies(ink)
    anything = np.logical_or.reduce([body for _, body in bodies])
    return [_recognise(ink, body, anything & ~body, colour) for colour, body in bodies]


def _agreement(result: CheckResult) -> tuple[int, int]:
    """What the best match has most of: all attributes; among equals, colours and shapes."""
    looks = sum(result.colour) + sum(result.shape)
    return looks + sum(result.size) + sum(result.relation), looks


def _agree(want: Description, got: ObservedObject | None, attribute: str) -> bool:
    return got is not None and getattr(want, attribute) == getattr(got, attribute)


def _related(subject: ObservedObject | None, name: str, other: ObservedObject | None) -> bool:
    if subject is None or other is None:
        return False
    return relation_between(other.x - subject.x, other.y - subject.y) == name


def _absorbed(image: Image.Image) -> np.ndarray:
    """How much of each channel the ink takes away from white: (side, side, 3), 0 to 255."""
    if image.width != image.height:
        raise UserError(f"images must be square, not {image.width}x{image.height}")
    image = image.convert("RGB")
    if image.width != READING_SIDE:
        image = image.resize((READING_SIDE, READING_SIDE), Image.Resampling.BICUBIC)
    smooth = image.filter(ImageFilter.GaussianBlur(SMOOTHING))
    return 255.0 - np.asarray(smooth, dtype=np.float64)


def _strongest(ink: np.ndarray) -> np.ndarray:
    """The channel most absorbed, (side, side). Much faster than a maximum over an axis of 3."""
    return np.maximum.reduce([ink[..., channel] for channel in range(3)])


def _bodies(ink: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Colour and mask (side, side) of each object's body, the largest first, without specks."""
    full = _strongest(ink) >= INK_LEVEL
    full[:, [0, -1]] = False  # so that no body runs on from a row's end into the next row
    labels = np.full(full.shape, -1)
    labels[full] = _name_colours(ink[full])
    bodies = [
        (_NAMES[label], body)
        for label in np.unique(labels[full])
        for body in _connected(labels == label)
    ]
    return sorted(bodies, key=lambda body: -body[1].sum())[:MOST_OBJECTS]


def _name_colours(pixels: np.ndarray) -> np.ndarray:
    """The nearest colour's number for absorbed light (n, 3).

    A pixel at an edge has the colour of an object thinned with white, so the distance is to
    the line of mixtures, not to the pure colour.
    """
    along, square = pixels @ _DYES.T, (_DYES**2).sum(axis=1)  # (n, colours), (colours,)
    share = (along / square).clip(INK, 1.1)
    # |pixel - share * dye|^2, without |pixel|^2, which is the same for all colours
    return (share * (share * square - 2 * along)).argmin(axis=1)


def _connected(mask: np.ndarray) -> list[np.ndarray]:
    """Split a mask (side, side) into connected bodies, leaving specks out.

    A mask is one long integer here, row after row: shifting it moves all pixels at once, which
    makes this flood fill several times as fast as one that walks from pixel to pixel.
    """
    rest = int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")
    bodies = []
    while rest:
        body, grown = 0, rest & -rest  # the lowest bit is as good a seed as any
        while grown != body:
            body = grown
            spread = body << 1 | body >> 1 | body << READING_SIDE | body >> READING_SIDE
            grown = body | (spread & rest)
        rest ^= body
        if body.bit_count() >= SPECK:
            bits = np.frombuffer(body.to_bytes(mask.size // 8, "little"), dtype=np.uint8)
            bodies.append(np.unpackbits(bits, bitorder="little").astype(bool).reshape(mask.shape))
    return bodies


def _recognise(
    ink: np.ndarray, body: np.ndarray, others: np.ndarray, colour: str
) -> ObservedObject:
    """Name the shape and size of one body; `others` is the mask of all other bodies."""
    mask, left, top = _soft_mask(ink, body, others)
    outline, x, y, area = _standardise(mask)
    templates, shapes = _templates()
    likeness = templates @ outline.ravel() / np.linalg.norm(outline)
    best = int(likeness.argmax())
    shape = shapes[best]
    width = float(np.sqrt(area / shape.area)) / READING_SIDE
    return ObservedObject(
        colour=colour,
        shape=shape.name if likeness[best] >= LEAST_LIKENESS else UNKNOWN,
        size="small" if width < SIZE_LIMIT else "large",
        x=(left + x) / READING_SIDE - shape.x * width,
        y=(top + y) / READING_SIDE - shape.y * width,
        width=width,
        likeness=float(likeness[best]),
    )


def _soft_mask(
    ink: np.ndarray, body: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, int, int]:
    """How much of each pixel around a body it covers, 0 to 1, and the window's left and top."""
    dye = np.median(ink[body], axis=0)
    columns, rows = np.flatnonzero(body.any(axis=0)), np.flatnonzero(body.any(axis=1))
    left, top = max(int(columns[0]) - 3, 0), max(int(rows[0]) - 3, 0)
    window = np.s_[top : rows[-1] + 4, left : columns[-1] + 4]
    cover = ink[window] @ dye / (dye @ dye)
    # Steeper than linear: noise on white goes to 0, and thin ink within a body to 1.
    return np.where(others[window], 0.0, ((cover - 0.2) / 0.6).clip(0, 1)), left, top


def _standardise(mask: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """Bring an outline to a fixed area and centroid; also its centroid (x, y) and area before."""
    area = float(mask.sum())
    x = float(mask.sum(axis=0) @ (np.arange(mask.shape[1]) + 0.5)) / area
    y = float(mask.sum(axis=1) @ (np.arange(mask.shape[0]) + 0.5)) / area
    reach = area**0.5  # half a star's width is 0.8 of this, other shapes' less
    scale = 2 * reach / STANDARD_SIDE
    standard = Image.fromarray(mask.astype(np.float32)).transform(
        (STANDARD_SIDE, STANDARD_SIDE),
        Image.Transform.AFFINE,
        (scale, 0, x - reach, 0, scale, y - reach),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(standard), x, y, area


@dataclass(frozen=True)
class _Shape:
    """A template's shape, its area for a box of side 1, and its centroid from the box's centre."""

    name: str
    area: float
    x: float
    y: float


@cache
def _templates() -> tuple[np.ndarray, tuple[_Shape, ...]]:
    """Standard outlines (templates, pixels) of unit length: every shape, size and blur."""
    templates = [_template(*kind) for kind in product(SHAPES, WIDTHS.values(), TEMPLATE_BLURS)]
    return np.stack([outline for outline, _ in templates]), tuple(shape for _, shape in templates)


def _template(name: str, widths: tuple[float, float], blur: float) -> tuple[np.ndarray, _Shape]:
    """Draw one shape in the middle of an image and read it as an observed one is read."""
    width = sum(widths) / 2
    image = render(Scene((SceneObject("black", name, "", 0.5, 0.5, width),)), READING_SIDE)
    ink = _absorbed(image.filter(ImageFilter.GaussianBlur(blur)))
    body = _strongest(ink) >= INK_LEVEL
    mask, left, top = _soft_mask(ink, body, np.zeros_like(body))
    outline, x, y, area = _standardise(mask)
    shape = _Shape(
        name,
        area / (width * READING_SIDE) ** 2,
        ((left + x) / READING_SIDE - 0.5) / width,
        ((top + y) / READING_SIDE - 0.5) / width,
    )
    return outline.ravel() / np.linalg.norm(outline), shape
