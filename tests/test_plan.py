"""What `--plan` says of memory, against models that are built and arithmetic written out."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from builders import tiny
from tiny_runs import DECODER, PRIOR

import train_clip
import train_dalle
import train_decoder
import train_dvae
import train_prior
from dalle.plan import _followed, transformer_needs
from dalle.transformer import Transformer
from dalle_base.common.config import load_config
from dalle_base.training.config import OptimiserConfig, RunConfig
from dalle_base.training.plan import Needs, ddp_share, fsdp_share, plain_share
from dual_encoder.config import DualEncoderConfig
from train_decoder import TrainDecoder
from unclip.checkpoint import make_decoder

NEEDS = Needs(
    parameters=100.0,
    gradients=100.0,
    optimiser=200.0,
    buffers=3.0,
    activations=50.0,
    backward=120.0,
    block=10.0,
    rest=20.0,
)


def test_what_each_device_holds() -> None:
    # Parameters, their average, optimiser, buffers; then what an update takes at most.
    assert plain_share(NEEDS).peak == 100 + 100 + 200 + 3 + 120
    assert ddp_share(NEEDS).peak == 100 + 100 + 200 + 3 + (100 + 50)
    sharded = fsdp_share(NEEDS, 4)
    assert sharded.together == 2 * 20 + 3 * 10
    assert sharded.peak == (100 + 100 + 200 + 100) / 4 + 70 + 3 + 50
    assert fsdp_share(NEEDS, 1).peak == ddp_share(NEEDS).peak


@pytest.mark.slow
def test_a_deep_model_is_followed_by_two_shallow_ones() -> None:
    """And what is counted of it is what a model that is built has."""
    config = tiny(depth=11)
    optimiser, run = OptimiserConfig(), RunConfig(batch_size=3)
    needs = transformer_needs(config, optimiser, run)
    direct = _followed(config, config.patterns, optimiser, run)
    for name, value in dataclasses.asdict(direct).items():
        assert getattr(needs, name) == pytest.approx(value, rel=0.02), name
    model = Transformer(config)
    parameters = 4 * sum(p.numel() for p in model.parameters())
    assert needs.parameters == needs.gradients == parameters
    # AdamW's two moments, and its counter of each tensor.
    assert needs.optimiser == pytest.approx(2 * parameters, rel=0.05)
    assert needs.rest + len(model.blocks) * needs.block == parameters
    twice = transformer_needs(config, optimiser, RunConfig(batch_size=6))
    assert twice.activations == pytest.approx(2 * needs.activations, rel=0.05)
    less = transformer_needs(dataclasses.replace(config, recompute=True), optimiser, run)
    assert less.activations < needs.activations / 2


@pytest.mark.slow
def test_every_script_plans(run_script: Callable[..., tuple[int, str, str]]) -> None:
    """Nothing is read and nothing written: data and tokenizer are not there."""
    dvae = ["model.image_size=16", "model.grid=4", "model.network.stem_stride=2"]
    dvae += ["model.network.width=8", "model.codebook_size=12", "model.network.groups=2"]
    dalle = ["model.rows=4", "model.columns=4", "model.depth=2", "model.d_model=16"]
    dalle += ["model.heads=2", "model.text_length=8", "run.mixed_precision=bf16"]
    clip = ["model.vision={width: 64, layers: 1, heads: 1}", "run.batch_size=2"]
    unclip = ["encoder=missing", "run.batch_size=2"]
    cases: dict[Any, list[str]] = {train_dvae: dvae, train_dalle: dalle, train_clip: clip}
    cases |= {train_prior: [*PRIOR, *unclip], train_decoder: [*DECODER, *unclip]}
    for script, arguments in cases.items():
        status, out, error = run_script(script.main, "--plan=4", *arguments)
        assert status == 0, error
        assert "DDP (4)" in out
        assert ("FSDP (4)" in out) == (script is train_dalle)
        assert float(out.splitlines()[-1].split()[-1]) > 0
    learned = make_decoder(load_config(TrainDecoder, "", DECODER).model, DualEncoderConfig())
    assert f"{sum(p.numel() for p in learned.parameters()):,} parameters" in out
