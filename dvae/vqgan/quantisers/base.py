"""What every quantiser is, and what those with a table of vectors share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed, nn

from dalle_base.common.bounds import ShareBelow1

MOST_DISTANCES = 2**24
"""Distances between vectors and codes that are held at once, 64 MiB."""


@dataclass
class Quantised:
    """A batch of vectors after quantising."""

    vectors: Tensor
    """The codes' own vectors [B, D, R, C], with a gradient for the vectors that came in."""
    codes: Tensor
    """Codes [B, R, C]."""
    commitment: Tensor
    """Mean squared distance of the vectors to their codes, which pulls the vectors; a scalar."""
    codebook: Tensor
    """The same distance where it pulls the codes; 0 for codes that no gradient moves."""
    regulariser: Tensor
    """A loss of the quantiser's own, with its weight; a scalar."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Named figures, detached scalars."""


class Quantiser(nn.Module, ABC):
    """Vectors on a grid [B, D, R, C] to codes and back. All of it is float32, also under autocast:
    the caller sees to that.
    """

    Options: ClassVar[Any]
    """Dataclass of its options."""

    def __init__(self, codebook_size: int, width: int, options: Any) -> None:
        super().__init__()
        self.codebook_size, self.width, self.options = codebook_size, width, options

    @abstractmethod
    def codes(self, vectors: Tensor) -> Tensor:
        """Return the codes [B, R, C] of vectors: deterministic."""

    @abstractmethod
    def vectors(self, codes: Tensor) -> Tensor:
        """Return the vectors [B, D, R, C] of codes, which the decoder reads."""

    @abstractmethod
    def forward(self, vectors: Tensor) -> Quantised:
        """Quantise in training. Codebooks that learn without gradients do so here."""

    def latents(self, codes: Tensor) -> Tensor:
        """Return latents [B, E, R, C] that `relax` rounds to codes: by default their vectors."""
        return self.vectors(codes)

    def relax(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors [B, D, R, C] of the codes nearest to latents, with the gradient going
        straight through, and the codes [B, R, C]. Unlike in training nothing is drawn or learned.
        """
        codes = self.codes(latents)
        return straight_through(latents, self.vectors(codes)), codes

    def unit(self) -> float:
        """Return the spread of latents, in which steps are measured."""
        return 1.0

    def limit(self, latents: Tensor) -> None:
        """Bring latents back, in place, to where there are codes."""

    @property
    def learns(self) -> bool:
        """Whether a forward pass is one of training."""
        return self.training and torch.is_grad_enabled()

    def code_state(self) -> dict[str, Tensor]:
        """Return the tensors that codes depend on."""
        return self.state_dict()


def straight_through(vectors: Tensor, quantised: Tensor) -> Tensor:
    """Return `quantised`, to the bit, with the gradient going to `vectors` as it is."""
    return quantised.detach() + (vectors - vectors.detach())


def rows(vectors: Tensor) -> Tensor:
    """Return vectors [B, D, R, C] as rows [B·R·C, D]."""
    return vectors.movedim(1, -1).reshape(-1, vectors.shape[1])


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return for each row [N, D] the number of the nearest row of a codebook [K, D]."""
    lengths = codebook.square().sum(dim=1)
    parts = vectors.split(max(1, MOST_DISTANCES // len(codebook)))
    # Without the vectors' own lengths, which do not change which code is nearest.
    return torch.cat([(lengths - 2 * (part @ codebook.T)).argmin(dim=1) for part in parts])


@dataclass
class CodebookOptions:
    """What quantisers with a table of vectors have in common."""

    dead_below: ShareBelow1 = 0.0
    """A code used less often than this share of an equal share is dead and becomes a random vector
    of the batch, at the very start all of them; 0: none is ever replaced."""
    decay: ShareBelow1 = 0.99
    """Decay of the average of how often a code is used, and of whatever else is averaged."""


class Codebook(Quantiser):
    """A quantiser with a table of K vectors, of which the nearest is the code.

    The table and the average use of its codes are parameters, the latter without a gradient: what
    ships is the average of a training run's parameters, and buffers would not take part in that.
    """

    tables = ("codebook",)

    def __init__(self, codebook_size: int, width: int, options: CodebookOptions) -> None:
        super().__init__(codebook_size, width, options)
        self.codebook = nn.Parameter(torch.empty(codebook_size, width))
        nn.init.uniform_(self.codebook, -1 / codebook_size, 1 / codebook_size)
        # Share of all vectors that go to each code. Where codes may die, all are born dead: the
        # first batch replaces them.
        use = 0.0 if options.dead_below else 1 / codebook_size
        self.usage = nn.Parameter(torch.full((codebook_size,), use), requires_grad=False)

    def code_state(self) -> dict[str, Tensor]:
        return {"codebook": self.codebook.detach()}

    def codes(self, vectors: Tensor) -> Tensor:
        found = nearest(rows(vectors), self.codebook)
        return found.view(len(vectors), *vectors.shape[2:])

    def vectors(self, codes: Tensor) -> Tensor:
        return nn.functional.embedding(codes, self.codebook).movedim(-1, 1)

    def unit(self) -> float:
        """Return the standard deviation of the codes' values about each channel's mean."""
        return self.codebook.detach().var(dim=0).mean().sqrt().item()

    @torch.no_grad()
    def limit(self, latents: Tensor) -> None:
        """Keep each channel within the codebook's range (as VQGAN+CLIP's programs do)."""
        low, high = (
            edge(dim=0)[:, None, None] for edge in (self.codebook.amin, self.codebook.amax)
        )
        latents.clamp_(low, high)

    @torch.no_grad()
    def replace_dead(self, vectors: Tensor) -> None:
        """Make dead codes random vectors of the batch, given as rows [N, D], if any may die."""
        if not self.options.dead_below:
            return
        size = self.codebook_size
        # No vector twice, as long as there are enough.
        chosen = torch.randperm(len(vectors), device=vectors.device)
        chosen = chosen[torch.arange(size, device=vectors.device) % len(vectors)]
        candidates = _of_first_process(vectors[chosen])
        dead = self.usage < self.options.dead_below / size
        self.codebook.copy_(torch.where(dead[:, None], candidates, self.codebook))
        self.usage.masked_fill_(dead, 1 / size)

    @torch.no_grad()
    def count(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Average the codes [N] into `usage`. Return the counts [K] and their sum, those of all
        processes together.
        """
        ones = torch.ones_like(codes, dtype=self.usage.dtype)
        counts = over_processes(torch.zeros_like(self.usage).scatter_add_(0, codes, ones))
        total = counts.sum()
        self.usage.lerp_(counts / total, 1 - self.options.decay)
        return counts, total


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def over_processes(sums: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes."""
    if _several():
        distributed.all_reduce(sums)
    return sums


def _of_first_process(values: Tensor) -> Tensor:
    if _several():
        distributed.broadcast(values := values.contiguous(), 0)
    return values
