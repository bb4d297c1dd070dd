"""What the rest of the project knows of stage one: images in, grids of codes out, and back."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dalle_base.common.errors import UserError


@dataclass
class LossReport:
    """One update's loss and the figures that a person watches beside it."""

    total: Tensor
    """Scalar to differentiate."""
    metrics: dict[str, float | Tensor] = field(default_factory=dict)
    """Named figures, detached scalars."""
    reconstruction: Tensor | None = None
    """What the loss was computed on, [B, 3, H, W] in about [0, 1], not clamped, with its gradient:
    what further losses of images (perceptual, adversarial) are added to. None: there are none."""


class Elb(NamedTuple):
    """The evidence lower bound of each image and its two parts, [B], in nats a pixel value."""

    nll: Tensor
    """Negative log-likelihood of the image, as it is mapped (A.3), under a code that was drawn."""
    kl: Tensor
    """KL divergence of the codes' posterior from the uniform prior, over all positions."""

    @property
    def elb(self) -> Tensor:
        """Return the bound, with a KL weight of 1."""
        return -(self.nll + self.kl)


class Drawn(NamedTuple):
    """Images of latents, and the codes that they were rounded to."""

    images: Tensor
    """[B, 3, H, W] in about [0, 1], not clamped, with a gradient for the latents."""
    codes: Tensor
    """[B, R, C]."""


def leave_uncompiled(network: nn.Module, kind: type[nn.Module]) -> None:
    """Keep torch.compile out of the modules of a kind: of attention.

    Compiled in one graph with what follows, under bfloat16 autocast on a CPU, attention would lose
    the gradient of everything before it (PyTorch 2.13): tests hold compiled gradients to eager.
    """
    for module in network.modules():
        if isinstance(module, kind):
            module.forward = torch.compiler.disable(module.forward)  # type: ignore


class ImageTokenizer(nn.Module, ABC):
    """Images to grids of discrete codes and back.

    Stage two sees nothing of stage one but this class. Pixel values are in [0, 1]; images are
    [B, 3, image_size, image_size]; codes are int64 [B, rows, columns] in [0, vocab_size).
    A tokenizer owns its loss, its schedules and its optimiser's parameters, so that the training
    script never asks which tokenizer it trains.
    """

    vocab_size: int
    image_size: int
    rows: int
    columns: int

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Return the codes of images: deterministic, without noise."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Return the images of codes, clamped to [0, 1]."""

    def code_state(self) -> dict[str, Tensor]:
        """Return the tensors that the codes of an image depend on: two tokenizers that agree in
        these give the same codes, whatever their decoders.
        """
        return self.state_dict()

    def codebook(self) -> Tensor:
        """Return the codes' vectors [K, C] as the decoder reads them, detached.

        Raises `UserError` for a tokenizer that has none.
        """
        raise UserError(f"{type(self).__name__} has no codebook: codebook_init=false")

    def latents(self, codes: Tensor) -> Tensor:
        """Return latents [B, D, R, C] that `draw_latents` rounds to these codes [B, R, C].

        They are what an optimiser may move (drawing guided by CLIP); what D is, the kind decides.
        Raises `UserError` for a tokenizer through which no gradient goes.
        """
        raise UserError(f"{type(self).__name__} cannot be differentiated through: no latents")

    def draw_latents(self, latents: Tensor) -> Drawn:
        """Round latents [B, D, R, C] to codes and draw them, the gradient going straight through.

        R and C may be other than the tokenizer's own where its networks are convolutions. Raises
        `UserError` as `latents` does.
        """
        raise UserError(f"{type(self).__name__} cannot be differentiated through: no latents")

    def latent_unit(self) -> float:
        """Return the spread of latents, in which an optimiser's steps are measured."""
        return 1.0

    def limit_latents(self, latents: Tensor) -> None:
        """Bring latents back, in place, to where there are codes: by default anywhere."""

    def hidden_weights(self) -> list[Tensor]:
        """Return the weights between hidden layers, which some optimisers treat as matrices
        [out, everything else]: not those that meet pixels or codes. By default there are none.
        """
        return []

    def last_layer(self) -> Tensor:
        """Return the weights of the decoder's last layer, at which losses of images are balanced.

        Raises `UserError` for a tokenizer that does not name any.
        """
        raise UserError(
            f"{type(self).__name__} does not name its last layer: "
            "model.objective.adversarial.adaptive=false"
        )

    @abstractmethod
    def loss(self, images: Tensor, step: int) -> LossReport:
        """Return the training loss of update `step` (from 0), which its schedules depend on."""

    def forward(self, images: Tensor, step: int) -> LossReport:
        """`loss`, under the name that data-parallel wrappers call."""
        return self.loss(images, step)

    def elb(self, images: Tensor, generator: torch.Generator) -> Elb | None:
        """Return the evidence lower bounds of images, or None for a tokenizer without likelihood.

        `generator`, of the CPU, draws the codes.
        """
        return None

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Encode and decode: what is left of an image when only its codes are kept."""
        return self.decode(self.encode(images))

    def compile_networks(self) -> None:
        """Compile what trains, by torch.compile: the networks that are this module's children."""
        for network in self.children():
            network.compile()
