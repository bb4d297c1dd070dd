"""Weights for sampling in fewer bits: faster, at a measured cost (docs/experiments.md)."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.config import PRECISIONS
from dalle.transformer import Transformer
from dalle_base.common.errors import UserError


class Int8Linear(nn.Module):
    """A linear layer whose weights are 8-bit integers with a scale for each output.

    Inputs, outputs and the bias are bfloat16; only what is read from memory is smaller.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features = linear.out_features
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.to(torch.bfloat16))
        self.bias = nn.Parameter(linear.bias.detach().to(torch.bfloat16), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if x.shape[-1] % 32:  # PyTorch's product with integers knows no other widths
            return F.linear(x, self.weight.to(x.dtype) * self.scale[:, None], self.bias)
        if torch.compiler.is_compiling():  # which knows this line as that product
            return F.linear(x, self.weight.to(x.dtype)) * self.scale + self.bias
        flat = x.reshape(-1, x.shape[-1])
        out = torch.ops.aten._weight_int8pack_mm(flat, self.weight, self.scale)
        return out.view(*x.shape[:-1], -1) + self.bias


def in_precision(model: Transformer, precision: str) -> Transformer:
    """Return a model that samples in a precision: itself in float32, else a copy.

    bfloat16 is for weights and activations alike; int8 for the weights of the blocks and the image
    head, the rest being bfloat16. Raises `UserError` for a precision that does not exist.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision is {precision!r}: use one of {', '.join(PRECISIONS)}")
    if precision == "float32":
        return model
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    if precision == "int8":  # from the weights as they are, before these are rounded
        for block in copied.blocks:
            for parent in block.modules():
                for name, child in list(parent.named_children()):
                    if isinstance(child, nn.Linear):
                        setattr(parent, name, Int8Linear(child))
        copied.image_head = Int8Linear(copied.image_head)  # type: ignore[assignment]
    return copied.to(torch.bfloat16)
