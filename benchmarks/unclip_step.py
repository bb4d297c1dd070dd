"""A training step of DALL-E 2's decoder and prior on a CPU, by how their networks attend.

On one thread (OMP_NUM_THREADS=1), as the shipped models are trained:

    python -m benchmarks.unclip_step --rounds 5

The baseline is PyTorch's fused attention, which diffusers takes by itself (`AttnProcessor2_0`).
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

from benchmarks.measuring import interleaved, report
from unclip.attention import FastAttention
from unclip.config import DecoderConfig, NoiseConfig, PriorConfig
from unclip.decoder import Decoder, shown
from unclip.prior import Prior
from unclip.reading import Caption

WIDTH, POSITIONS = 128, 24


def captions(count: int) -> Caption:
    """Return what random captions would be read as."""
    mask = torch.arange(POSITIONS) < torch.randint(4, POSITIONS, (count, 1))
    return Caption(torch.randn(count, WIDTH), torch.randn(count, POSITIONS, WIDTH), mask)


def decoder_loss() -> tuple[Decoder, Callable[[], Tensor]]:
    """Return a decoder as large as that of emoji, and its loss of a batch of 32."""
    config = DecoderConfig(
        image_size=64,
        patch=2,
        channels=[48, 96, 128],
        blocks=1,
        attention=[1, 2],
        head_width=16,
        context_width=96,
        norm_groups=16,
        noise=NoiseConfig(prediction="v_prediction"),
    )
    model = Decoder(config, WIDTH, WIDTH)
    images, noise = torch.rand(32, 3, 64, 64), torch.randn(32, 3, 64, 64)
    condition = shown(torch.randn(32, WIDTH), captions(32), read=True)
    return model, partial(model, images, condition, torch.randint(1000, (32,)), noise)


def prior_loss() -> tuple[Prior, Callable[[], Tensor]]:
    """Return a prior as large as that of emoji, and its loss of a batch of 256."""
    model = Prior(PriorConfig(layers=4, heads=4, head_width=48), WIDTH, WIDTH, POSITIONS)
    clean, noise = torch.randn(2, 256, WIDTH)
    seen = torch.zeros(256, dtype=torch.bool)
    return model, partial(model, clean, captions(256), torch.randint(1000, (256,)), noise, seen)


def step(model: Decoder | Prior, loss: Callable[[], Tensor], way: Any, half: bool) -> None:
    """Compute the gradients of a batch, attending in one way."""
    model.network.set_attn_processor(way)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        value = loss().mean()
    value.backward()
    model.zero_grad()


def main() -> None:
    """Time the steps and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    ratios, seconds = {}, {}
    for name, (model, loss) in {
        "decoder": decoder_loss(),
        "prior": prior_loss(),
    }.items():
        for precision in ("float32", "bfloat16"):
            ways = {"ours": FastAttention(), "fused": AttnProcessor2_0()}
            half = precision == "bfloat16"
            times = interleaved(
                {way: partial(step, model, loss, made, half) for way, made in ways.items()},
                arguments.rounds,
            )
            key = f"{name}_{precision}"
            seconds[key] = {way: round(value, 4) for way, value in times.items()}
            ratios[f"{key}_fused_vs_ours"] = times["fused"] / times["ours"]
            print(key, seconds[key], flush=True)
    report(ratios, seconds=seconds)


if __name__ == "__main__":
    main()
