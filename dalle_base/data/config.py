"""What every source of images is told. A source's own options are in its file under `sources`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from dalle_base.common.bounds import Bounds, Share, ShareBelow1
from dalle_base.common.errors import UserError
from dalle_base.common.free import Free, Place

FLIPS = ("none", "all", "mirrorable")


@dataclass
class AugmentConfig:
    """Augmentation of training images. The defaults are the paper's (appendix A.2)."""

    crop: bool = True
    """Crop near the centre, resize to a random side, crop at random; else crop the centre."""
    max_scale: Annotated[float, Bounds(1, 8)] = 1.125
    """Largest side before the random crop, as a multiple of the image's final side."""
    flip: str = "none"
    """Horizontal flips: none, all, or mirrorable (only where the data's column says so)."""
    border: Annotated[float, Bounds(0, 4)] = 0.0
    """Add a white border of up to this share of the side first, so that cropping cuts less."""
    colour: Annotated[float, Bounds(0, 10)] = 0.0
    """Vary brightness, contrast and saturation by up to this share."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        if self.flip not in FLIPS:
            raise UserError(f"data.augment.flip is {self.flip!r}; use one of {', '.join(FLIPS)}")


@dataclass
class TextConfig:
    """The text encoding while training."""

    bpe_dropout: Share = 0.1
    """Share of merges left out (BPE dropout)."""
    artist_share: Share = 0.5
    """Share of captions that name the artist, where there is one."""
    keywords_share: Share = 0.25
    """Share of captions that are keywords of the image, with or without the caption itself."""
    short_share: Share = 0.0
    """Share of captions that are a short name, as people type it: "a tree" for an evergreen tree.
    It comes from the keywords; its wordings are those of data.caption_forms."""


@dataclass
class DataConfig:
    """Where captioned images come from and how they are prepared."""

    source: str = "folder"
    """Kind of source, which decides the other options: a name in SOURCES."""
    workers: Free[Annotated[int, Bounds(0, 128)]] = 0
    """Processes that load images in the background."""
    max_skipped: Free[Share] = 0.1
    """Largest share of images that may be unreadable: beyond it the run ends (0: none may)."""
    augment: Annotated[AugmentConfig, Place("")] = field(default_factory=AugmentConfig)
    """Augmentation of training images."""

    def open(self) -> tuple[Any, Any]:
        """Return the training and the held-out source; each source's config has its own."""
        raise NotImplementedError


@dataclass
class PathConfig(DataConfig):
    """A source that has a path."""

    path: str = ""
    """Where the images are."""
    held_out_path: str = ""
    """Images to measure on, as `path`; where empty, a share of the training set is set aside."""
    held_out_share: ShareBelow1 = 0.05
    """Share of the images set aside where held_out_path is empty."""


def adapt_layers(
    config: type[DataConfig], others: Sequence[type[DataConfig]], layers: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return a config's layers without the options that belong to other sources.

    A layer that names a source, or comes after one that does, is written for it. What an earlier
    layer (a file) says of another source is dropped with that source. Later, an option that only
    other sources have may be repeated with its default, which switches it off; another value is an
    error.

    Args:
        config: class of the source in use.
        others: classes of the other sources.
        layers: mappings of options, the first laid down first.

    Raises:
        UserError: an option that the source in use does not have.
    """
    own, shared = _defaults(config), _defaults(DataConfig)
    foreign: dict[str, Any] = {}
    for other in others:
        foreign |= {k: v for k, v in _defaults(other).items() if k not in own}
    named = max((i for i, layer in enumerate(layers) if "source" in layer), default=0)
    source = layers[named].get("source", own["source"]) if layers else own["source"]
    changed = any(layer.get("source", source) != source for layer in layers[:named])
    adapted = []
    for number, layer in enumerate(layers):
        written_for_other = changed and number < named
        kept = {}
        for key, value in layer.items():
            if written_for_other and key not in shared:
                continue
            if key in foreign:
                if str(value) != str(foreign[key]) and not written_for_other:
                    raise UserError(
                        f"data.{key} is no option of data.source={source}; leave it out"
                    )
                continue
            kept[key] = value
        adapted.append(kept)
    return adapted


def _defaults(config: type[DataConfig]) -> dict[str, Any]:
    default = config()
    return {each.name: getattr(default, each.name) for each in fields(config)}
