"""Where a pattern's layers keep each code of a stream while it is decoded, and what each reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class CachePlan:
    """Where a pattern's layers keep each code of a stream, and what each code reads there.

    A slot holds the keys and values of one code at a time: it is written anew once no later code
    reads what it holds. Every code reads as many slots as the one that reads most, so that a step
    has one shape; what it must not see has a bias of minus infinity. Made once for a pattern and
    shared by its layers, see `plan_cache`.
    """

    mask: Tensor
    """What each stream position sees: bool [T+RC, T+RC]."""
    text: int
    """The stream's text inputs: positions before the first code."""
    order: tuple[int, ...]
    """The slot of each code, in raster order: RC numbers."""
    slots: Tensor
    """The same as a tensor, for a step that must not look at values: [RC]."""
    size: int
    """Slots of a candidate: how many codes are kept at a time."""
    reads: Tensor | None
    """The slots that each code reads, [RC, n]; None where each reads all of them."""
    bias: Tensor
    """Added to the scores of what is read: 0 or minus infinity, float32 [RC, n]."""

    def to(self, device: torch.device) -> "CachePlan":
        """The same plan with its tensors on a device."""
        tensors = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


def plan_cache(mask: Tensor, text: int, slots: Sequence[int]) -> CachePlan:
    """Return the plan for a mask and the slot of each code, on the CPU.

    Raises `ValueError` if a code is overwritten before the last that sees it has been decoded.
    """
    size, held = max(slots) + 1, {}
    seen: list[list[int]] = []  # the slots of what each code sees
    for code, row in enumerate(mask[text:, text:]):
        held[slots[code]] = code
        keys = row.nonzero()[:, 0].tolist()
        if any(held.get(slots[key]) != key for key in keys):
            raise ValueError(f"code {code} sees a code whose slot was written anew")
        seen.append(sorted(slots[key] for key in keys))
    most = max((len(places) for places in seen), default=0)
    everything = most == size
    # The grid's last code is predicted and never read: its row of the tables is not used.
    bias = torch.full((len(slots), max(1, most)), -torch.inf)
    reads = torch.zeros(bias.shape, dtype=torch.long)
    for code, places in enumerate(seen):
        reads[code, : len(places)] = torch.tensor(places)
        bias[code, torch.tensor(places) if everything else slice(len(places))] = 0
    return CachePlan(
        mask=mask,
        text=text,
        order=tuple(slots),
        slots=torch.tensor(slots),
        size=size,
        reads=None if everything else reads,
        bias=bias,
    )
