"""Losses of images, added to those of any tokenizer: perceptual and adversarial."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dalle_base.common.errors import UserError
from dvae.adversarial import Adversary
from dvae.image_losses_config import (
    ADVERSARIAL,
    NETWORKS,
    PERCEPTUAL,
    PerceptualConfig,
    image_losses_of,
)
from dvae.perceptual import perceptual_distance
from dvae.tokenizer import ImageTokenizer, LossReport

if TYPE_CHECKING:
    from dalle_base.training.run import Run


class ImageLosses:
    """What a tokenizer's config asks for: both losses, one or none.

    Nothing of it is part of the tokenizer, its weights or its codes.
    """

    def __init__(self, config: Any) -> None:
        """`config` is the tokenizer's. Raises `UserError` where the network is missing."""
        self.perceptual, self.adversarial = image_losses_of(config)
        self.network = make_network(self.perceptual) if self.perceptual.weight else None
        self.adversary: Adversary | None = None

    def attach(self, tokenizer: ImageTokenizer, run: "Run") -> None:
        """Prepare for a run, before anything is restored. Raises `UserError` as `Adversary`."""
        if self.network is not None:
            self.network.to(run.accelerator.device)
        if self.adversarial.weight:
            self.adversary = Adversary(self.adversarial, tokenizer, run)

    def add(self, report: LossReport, images: Tensor, step: int) -> LossReport:
        """Return the report of update `step` with the losses added; the same one if there are none.

        Raises `UserError` if the tokenizer reports no reconstruction to compute them on.
        """
        adversary = self._adversary(step)
        if self.network is None and adversary is None:
            return report
        total, metrics = report.total, dict(report.metrics)
        reconstruction = _reconstruction(report)
        if self.network is not None:
            options = self.perceptual
            distance = perceptual_distance(
                self.network, images, reconstruction, options.blocks, options.size
            )
            total = total + options.weight * distance
            metrics["perceptual"] = distance.detach()
        if adversary is not None:
            loss, figures = adversary.generator_loss(reconstruction, total, step)
            total, metrics = total + loss, metrics | figures
        return replace(report, total=total, metrics=metrics)

    def update(self, report: LossReport, images: Tensor, step: int) -> dict[str, float | Tensor]:
        """Train the discriminator, if any, on update `step`; return its figures.

        Raises `UserError` if its loss is not finite.
        """
        adversary = self._adversary(step)
        return {} if adversary is None else adversary.update(images, _reconstruction(report))

    def _adversary(self, step: int) -> Adversary | None:
        started = self.adversary is not None and self.adversary.started(step)
        return self.adversary if started else None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: nothing without a discriminator."""
        return {} if self.adversary is None else self.adversary.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`. Raises `UserError` if it is not this discriminator's."""
        if self.adversary is None:
            return
        if not state:
            raise UserError(
                "the run's checkpoint has no discriminator: start from its weights with init=... "
                "in another run.out"
            )
        self.adversary.load_state_dict(state)


def make_network(config: PerceptualConfig) -> Any:
    """Return the frozen network that a config names.

    Raises `UserError`: what it needs is missing, or it lacks one of the blocks.
    """
    make = NETWORKS[config.network]
    network = make(config.folder) if config.folder else make()
    layers = getattr(network, "layers", None)
    if layers is not None and max(config.blocks) >= layers:
        raise UserError(
            f"{PERCEPTUAL}.blocks is {config.blocks}, but {config.folder} has {layers} layers: "
            f"write some of 0 to {layers - 1}"
        )
    return network


def _reconstruction(report: LossReport) -> Tensor:
    if report.reconstruction is None:
        raise UserError(
            f"this tokenizer reports no reconstruction: {PERCEPTUAL}.weight=0 and "
            f"{ADVERSARIAL}.weight=0"
        )
    return report.reconstruction
