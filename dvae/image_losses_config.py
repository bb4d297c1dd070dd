"""Options of the losses of images that any tokenizer may add to its own: both are off by default.

A tokenizer's config that has them has them as `objective.perceptual` and `objective.adversarial`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from dalle_base.common.bounds import Above0, Bounds, From0, ShareBelow1, Weight
from dalle_base.common.errors import UserError
from dalle_base.common.registry import Registry

NETWORKS: Registry[Any] = Registry(
    {
        "lite0": "dalle_base.common.lite0:Lite0",
        "dual_encoder": "dual_encoder.perceptual:load_image_tower",
    }
)
"""Frozen networks to compare images by: what makes a module with `activations(images, blocks,
size)`, of no argument or, where `PerceptualConfig.folder` is given, of that."""
NORMS = ("group", "batch", "none")
PERCEPTUAL, ADVERSARIAL = "model.objective.perceptual", "model.objective.adversarial"


@dataclass
class PerceptualConfig:
    """Distance of a frozen network's activations, as LPIPS without its learned weights."""

    weight: Weight = 0.0
    """Weight of the distance; 0: none, and the network is not needed."""
    network: str = "lite0"
    """Frozen network: lite0 (EfficientNet-Lite0, of the extra `perceptual`) or dual_encoder (the
    image tower of a CLIP of your own); a name in NETWORKS."""
    folder: str = ""
    """Folder of the network's weights: a dual encoder's. lite0 brings its own."""
    blocks: list[Annotated[int, Bounds(0, 1023)]] = field(default_factory=lambda: [0, 2, 4, 10])
    """Blocks of the network whose outputs are compared, from 0: lite0 has 16, a dual encoder one a
    layer."""
    size: Annotated[int, Bounds(32, 2048)] = 96
    """Side in pixels to which images are resized for lite0; a dual encoder has its own size."""

    def validate(self, where: str = PERCEPTUAL) -> None:
        """Raise `UserError` on impossible values; `where` is the config's dotted name."""
        NETWORKS.check(f"{where}.network", self.network)
        if not self.blocks:
            raise UserError(f"{where}.blocks is {self.blocks}: write one or more, from 0")
        if self.network == "lite0" and max(self.blocks) > 15:
            raise UserError(f"{where}.blocks is {self.blocks}: write one or more of 0 to 15")
        if self.network == "lite0" and self.folder:
            raise UserError(f"{where}.folder is {self.folder!r}, but lite0 brings its own weights")
        if self.network == "dual_encoder" and not self.folder:
            raise UserError(f"{where}.folder is empty: name the dual encoder's folder")
        if len(set(self.blocks)) < len(self.blocks):
            raise UserError(f"{where}.blocks is {self.blocks}: each block counts once")


@dataclass
class AdversarialConfig:
    """A PatchGAN discriminator, trained beside the tokenizer, and its loss (hinge)."""

    weight: Weight = 0.0
    """Weight of the generator's loss, −mean D(x̂); 0: no discriminator. 0.1 is a good start."""
    start: From0 = 0
    """Update at which the discriminator starts: until then it neither trains nor counts."""
    ramp: From0 = 0
    """Updates over which the weight rises from 0 once the discriminator has started, linear."""
    channels: Annotated[int, Bounds(1, 512)] = 48
    """Channels of the discriminator's first layer; each further layer doubles them, up to 8 times.
    """
    layers: Annotated[int, Bounds(1, 12)] = 3
    """Layers that halve the image: 2 judge patches of 34 pixels, 3 of 70 (Isola et al. 2017)."""
    norm: str = "group"
    """The discriminator's normalisation: group, batch (of each batch, real or reconstructed) or
    none."""
    lecam: Weight = 0.0
    """Weight of LeCam regularisation, which holds its outputs on scarce data near to each other's
    moving averages (Tseng et al. 2021)."""
    adaptive: bool = False
    """Multiply the weight by the ratio of the other losses' gradient to this one's, as measured at
    the decoder's last layer (Esser et al. 2021)."""
    adaptive_max: Above0 = 100.0
    """What that ratio is at most (Esser et al.: 10,000)."""
    lr: Above0 = 4e-4
    """Step size of the discriminator's AdamW."""
    final_lr: Weight = 0.0
    """Step size at the end of its cosine, if any."""
    decay_updates: From0 = 0
    """Updates from its start over which its step size falls, cosine; 0: it stays at lr."""
    beta1: ShareBelow1 = 0.5
    """Its β₁."""
    beta2: ShareBelow1 = 0.95
    """Its β₂."""

    def validate(self, where: str = ADVERSARIAL) -> None:
        """Raise `UserError` on impossible values; `where` is the config's dotted name."""
        if self.norm not in NORMS:
            raise UserError(f"{where}.norm is {self.norm!r}; use one of {', '.join(NORMS)}")


def image_losses_of(model: Any) -> tuple[PerceptualConfig, AdversarialConfig]:
    """Return what a tokenizer's config says of both losses: off where it says nothing of them."""
    objective = getattr(model, "objective", None)
    return (
        getattr(objective, "perceptual", PerceptualConfig()),
        getattr(objective, "adversarial", AdversarialConfig()),
    )
