"""The decoding step, compiled: apart from `dalle.generate`, as the compiler is slow to import."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr

import torch
import torch._dynamo.exc
import torch._inductor.config
import torch._inductor.exc
from torch import Tensor, nn

from dalle.cache import Slots
from dalle.generate import Step, decode_step
from dalle.transformer import Transformer
from dalle_base.common.errors import UserError

SETTINGS: dict[str, bool] = {"freezing": True, "max_autotune": True}
"""Of PyTorch's compiler: weights are constants, and the fastest of several products is taken."""


class _Decoder(nn.Module):
    """`decode_step` as a module, for a compiler to find its weights in."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor, index: Tensor, stores: Sequence[Slots]) -> Tensor:
        return decode_step(self.model, codes, index, stores)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the compiler says of its own code, and of each product that it tries out."""
    with redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compile_step(model: Transformer) -> Step:
    """Return `decode_step` compiled for a model whose weights no longer change.

    On a GPU the step becomes a CUDA graph; on a CPU one C++ function, with the weights laid out
    for its products. That takes half a minute at the first call, for each number of rows. It
    raises `UserError` where nothing can be compiled.
    """
    cuda = model.start.device.type == "cuda"
    settings = SETTINGS | ({"triton.cudagraphs": True} if cuda else {"cpp_wrapper": True})
    with _quiet():
        compiled = torch.compile(_Decoder(model), dynamic=False)
    known: set[int] = set()  # numbers of rows

    def step(codes: Tensor, index: Tensor, stores: Sequence[Slots]) -> Tensor:
        codes = codes.contiguous()  # other strides would be another program
        if len(codes) in known:
            return compiled(codes, index, list(stores)).clone()
        if cuda:  # a graph may only write to memory that stays where it is
            for store in stores:
                torch._dynamo.mark_static_address(store.keys)
                torch._dynamo.mark_static_address(store.values)
        try:
            # Not `torch.compile(options=...)`: whether weights are constants is asked before those.
            with _quiet(), torch._inductor.config.patch(settings):
                out = compiled(codes, index, list(stores)).clone()
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"the decoding step cannot be compiled here ({reason}): sample without "
                "compiling, or install a C++ compiler"
            ) from None
        known.add(len(codes))
        return out

    return step
