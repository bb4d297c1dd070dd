"""How a run in float16 fares with a gradient scale for each residual block, and with none.

A small transformer learns one batch on a CPU. Its loss is divided by more and more, as gradients
shrink with the devices that share a batch, and with depth and width in large models.

Usage: python -m experiments.gradient_scales [--updates N]
"""

import argparse

import torch
from accelerate import Accelerator
from torch import nn

from dalle.config import TransformerConfig
from dalle.transformer import Transformer
from dalle_base.common.errors import command
from dalle_base.common.report import table
from dalle_base.training.config import OptimiserConfig
from dalle_base.training.trainer import Trainer

DIVISORS = (0, 12, 16, 20)
"""Binary logarithms of what the loss is divided by."""
WAYS = (("float32", False, False), ("float16", True, False), ("float16, scales", True, True))


def transformer(scaled: bool) -> Transformer:
    """A transformer with weights large enough to learn from at once."""
    torch.manual_seed(0)
    config = TransformerConfig(
        text_vocab=11,
        image_vocab=13,
        text_length=3,
        rows=3,
        columns=4,
        depth=4,
        heads=2,
        head_width=4,
        d_model=12,
        pattern_options={"conv": {"kernel": 3}},
        attention="reference",
        gradient_scales=scaled,
    )
    model = Transformer(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def learn(updates: int, divisor: float, half: bool, scaled: bool) -> tuple[float, float]:
    """Return the share of the blocks' gradients that are 0 at first, and the last loss."""
    model = transformer(scaled)
    options = OptimiserConfig(lr=3e-3, schedule="constant", weight_decay=0.0, eps=1e-12)
    trainer = Trainer(model, options, Accelerator(cpu=True))
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(11, (4, 3), generator=generator)
    codes = torch.randint(13, (4, 12), generator=generator)
    share = loss = torch.nan
    for update in range(updates):
        with torch.autocast("cpu", torch.float16, enabled=half):
            total = model(tokens, codes).total
        if update == 0:
            parameters = list(model.blocks.parameters())
            gradients = torch.autograd.grad(total / divisor, parameters, retain_graph=True)
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            share = (flat == 0).float().mean().item()
        loss = trainer.update(total / divisor) * divisor
    return share, loss


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=60, help="of each run (default: 60)")
    updates = parser.parse_args().updates
    rows = [("loss divided by", "computed in", "gradients that are 0", "last loss")]
    for power in DIVISORS:
        for name, half, scaled in WAYS:
            share, loss = learn(updates, 2.0**power, half, scaled)
            rows.append((f"2^{power}", name, f"{share:.1%}", f"{loss:.4f}"))
    print(table(rows))


if __name__ == "__main__":
    raise SystemExit(main())
