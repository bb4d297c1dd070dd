"""Floating-point operations of a training update, counted on tensors that have no memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

_CPU = torch.ops.aten
"""Attention on a CPU, which torch's counter does not know."""


def _forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


def flops_of_update(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> float:
    """Return the operations of one forward and backward pass.

    Those of matrix products, convolutions and attention, two for each multiplication and addition
    of a pair; the optimiser's own are not counted.

    Args:
        model: on the meta device.
        loss: makes a batch (of zeros) and returns the model's training loss.
    """
    known = {
        _CPU._scaled_dot_product_flash_attention_for_cpu: _forward,
        _CPU._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
    }
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu").train()
        with FlopCounterMode(display=False, custom_mapping=known) as counter:
            loss(model).float().backward()
        return float(counter.get_total_flops())
