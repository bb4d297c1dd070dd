"""What a layer may be made of beside the paper's parts; each is a named option of a model.

ADD A NORM OR AN ACTIVATION = one line in its table here, and its name in `dalle.config`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.stream import Stream

SLOWEST = 100.0
"""Ratio of the fastest to the slowest angle of a step in the grid, which is short."""


def squared_relu(x: Tensor) -> Tensor:
    """ReLU, squared: cheaper than GELU, and zero for half of its inputs (So et al. 2021)."""
    return F.relu(x).square()


def gated_silu(x: Tensor) -> Tensor:
    """SwiGLU (Shazeer 2020): one half of the inputs gates the other, [..., 2 n] to [..., n]."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


NORMS: dict[str, Callable[[int], nn.Module]] = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "squared_relu": squared_relu,
    "swiglu": gated_silu,
}


def mlp_widths(activation: str, d_model: int) -> tuple[int, int]:
    """The widths that an MLP's first layer writes and its second one reads.

    A gated MLP has two thirds of the hidden width, so that it has as many weights as any other.
    """
    if activation == "swiglu":
        hidden = 8 * d_model // 3
        return 2 * hidden, hidden
    return 4 * d_model, 4 * d_model


def rotary_angles(stream: Stream, head_width: int) -> Tensor:
    """The angle of each stream position and each pair of a head's channels, [T+RC, D/2].

    Half of the pairs turn with a code's row, half with its column (Su et al. 2021, in two
    dimensions). A text position counts as a row and a column of its own, before all of the grid's.
    """
    text = torch.arange(stream.text_inputs)
    index = torch.arange(stream.image_length - 1)  # the last code is never read
    row = torch.cat([text, stream.row(index) + stream.text_inputs])
    column = torch.cat([text, stream.column(index) + stream.text_inputs])
    pairs = head_width // 4
    frequencies = SLOWEST ** (-torch.arange(pairs) / pairs)
    return torch.cat([place[:, None] * frequencies for place in (row, column)], dim=1)


def rotation(angles: Tensor) -> Tensor:
    """The cosines and sines of angles [n, D/2] as `rotate` reads them, [2, n, D/2]."""
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn queries or keys [B, H, n, D] by the `rotation` [2, n, D/2] of their positions."""
    cos, sin = turn.to(x.dtype)
    one, other = x.chunk(2, dim=-1)
    return torch.cat([one * cos - other * sin, one * sin + other * cos], dim=-1)
