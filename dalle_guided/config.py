"""How a drawing is guided. Needs no torch."""

from dataclasses import dataclass
from typing import Annotated

from dalle_base.common.bounds import Above0, Bounds, Share, Weight, check_bounds

STARTS = ("noise", "image", "sampled")


@dataclass(frozen=True)
class CutoutsConfig:
    """Views of an image that the encoder is shown, each drawn anew in every step.

    Without them the result is a pattern that only the encoder understands. An image no larger than
    the encoder's input must be cropped as well: the classic rule, side = u^power · (largest -
    smallest) + smallest, never crops such a one (Crowson's notebook), so sides are drawn as a share
    of the image's own (as pixray does).
    """

    count: Annotated[int, Bounds(1, 4096)] = 32
    """Cutouts in a step; 64 in Crowson's notebook, 32 in nerdyrodent/VQGAN-CLIP."""
    zoomed: Share = 0.6
    """Share of them that are crops; the others show nearly all of the image."""
    smallest: Annotated[float, Bounds(0.01, 1)] = 0.5
    """Smallest side of a crop, as a share of the image's."""
    degrees: Annotated[float, Bounds(0, 180)] = 10.0
    """Most that a cutout is turned, either way."""
    shear: Annotated[float, Bounds(0, 1)] = 0.05
    """Most that it is sheared, either way."""
    colour: Share = 0.1
    """Most that brightness and contrast change, either way."""
    noise: Share = 0.05
    """Largest standard deviation of the noise; each cutout has its own."""


@dataclass(frozen=True)
class GuidanceConfig:
    """How an image is found."""

    steps: Annotated[int, Bounds(1, 100_000)] = 200
    """Updates of the latents at most."""
    step_size: Above0 = 0.15
    """Of Adam, which moves the latents alone, in units of their spread (`latent_unit`). Programs
    before this one took 0.05 to 0.2, without a unit."""
    image_weight: Weight = 0.0
    """Weight of the mean squared distance to the image that it starts from."""
    measure_every: Annotated[int, Bounds(1, 100_000)] = 10
    """Steps between measurements of the whole image: of both encoders, and a frame of the way."""
    patience: Annotated[int, Bounds(1, 100_000)] = 5
    """Measurements without a better score of the second encoder, after which the drawing ends."""
    cutouts: CutoutsConfig = CutoutsConfig()
    """What the encoder is shown."""

    def __post_init__(self) -> None:
        """Raise `UserError` for a number out of its bounds."""
        check_bounds(self, flags=True)
