"""Published VQGANs: files as PyTorch Lightning writes them, against a plain reference; refusals."""

import collections
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from dalle_base.common.errors import UserError
from dalle_published import vqgan
from dvae.checkpoint import load_tokenizer
from dvae.vqgan.model import VQGAN

State = dict[str, Tensor]
CHANNELS, LEVELS, ATTENTION, Z, WIDTH, CODES = [32, 32, 64], 3, (1,), 6, 5, 11
"""A small VQGAN: channels of its levels, attention at the middle one, one block a level."""


# a plain reference of taming ----------------------------------------------------------------------


class Made:
    """Random weights of a VQGAN under taming's names, and what its networks say with them."""

    def __init__(self, gumbel: bool = False, blocks: int = 1) -> None:
        torch.manual_seed(0)
        self.state: State = {}
        self.gumbel, self.blocks = gumbel, blocks
        self._encoder()
        self._decoder()
        self._conv("quant_conv", Z, WIDTH, 1)
        self._conv("post_quant_conv", WIDTH, Z, 1)
        if gumbel:
            self._conv("quantize.proj", WIDTH, CODES, 1)
            self.state["quantize.embed.weight"] = torch.randn(CODES, WIDTH)
        else:
            self.state["quantize.embedding.weight"] = torch.randn(CODES, WIDTH) * 0.3

    def _conv(self, name: str, n_in: int, n_out: int, kernel: int) -> None:
        std = (n_in * kernel**2) ** -0.5
        self.state[f"{name}.weight"] = torch.randn(n_out, n_in, kernel, kernel) * std
        self.state[f"{name}.bias"] = torch.randn(n_out) * 0.1

    def _norm(self, name: str, n: int) -> None:
        self.state[f"{name}.weight"] = 1 + 0.1 * torch.randn(n)
        self.state[f"{name}.bias"] = 0.1 * torch.randn(n)

    def _block(self, name: str, n_in: int, n_out: int) -> None:
        self._norm(f"{name}.norm1", n_in)
        self._conv(f"{name}.conv1", n_in, n_out, 3)
        self._norm(f"{name}.norm2", n_out)
        self._conv(f"{name}.conv2", n_out, n_out, 3)
        if n_in != n_out:
            self._conv(f"{name}.nin_shortcut", n_in, n_out, 1)

    def _attention(self, name: str, n: int) -> None:
        self._norm(f"{name}.norm", n)
        for part in ("q", "k", "v", "proj_out"):
            self._conv(f"{name}.{part}", n, n, 1)

    def _middle(self, name: str, n: int) -> None:
        self._block(f"{name}.mid.block_1", n, n)
        self._attention(f"{name}.mid.attn_1", n)
        self._block(f"{name}.mid.block_2", n, n)

    def _encoder(self) -> None:
        n = CHANNELS[0]
        self._conv("encoder.conv_in", 3, n, 3)
        for level in range(LEVELS):
            for i in range(self.blocks):
                self._block(f"encoder.down.{level}.block.{i}", n, CHANNELS[level])
                n = CHANNELS[level]
                if level in ATTENTION:
                    self._attention(f"encoder.down.{level}.attn.{i}", n)
            if level < LEVELS - 1:
                self._conv(f"encoder.down.{level}.downsample.conv", n, n, 3)
        self._middle("encoder", n)
        self._norm("encoder.norm_out", n)
        self._conv("encoder.conv_out", n, Z, 3)

    def _decoder(self) -> None:
        n = CHANNELS[-1]
        self._conv("decoder.conv_in", Z, n, 3)
        self._middle("decoder", n)
        for level in reversed(range(LEVELS)):
            for i in range(self.blocks + 1):
                self._block(f"decoder.up.{level}.block.{i}", n, CHANNELS[level])
                n = CHANNELS[level]
                if level in ATTENTION:
                    self._attention(f"decoder.up.{level}.attn.{i}", n)
            if level > 0:
                self._conv(f"decoder.up.{level}.upsample.conv", n, n, 3)
        self._norm("decoder.norm_out", n)
        self._conv("decoder.conv_out", n, 3, 3)

    # What the networks compute: taming's forward passes, written out.

    def conv(self, name: str, x: Tensor, padding: int = 0, stride: int = 1) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.conv2d(x, weight, bias, padding=padding, stride=stride)

    def norm(self, name: str, x: Tensor) -> Tensor:
        grouped = x.reshape(len(x), 32, -1)
        mean = grouped.mean(dim=2, keepdim=True)
        spread = grouped.var(dim=2, keepdim=True, unbiased=False) + 1e-6
        even = ((grouped - mean) / spread.sqrt()).reshape(x.shape)
        weight, bias = (self.state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
        return even * weight + bias

    def block(self, name: str, x: Tensor) -> Tensor:
        h = self.norm(f"{name}.norm1", x)
        h = self.conv(f"{name}.conv1", h * h.sigmoid(), 1)
        h = self.norm(f"{name}.norm2", h)
        h = self.conv(f"{name}.conv2", h * h.sigmoid(), 1)
        if f"{name}.nin_shortcut.weight" in self.state:
            x = self.conv(f"{name}.nin_shortcut", x)
        return x + h

    def attention(self, name: str, x: Tensor) -> Tensor:
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", h).flatten(2) for part in ("q", "k", "v"))
        weights = (torch.einsum("bci,bcj->bij", q, k) * q.shape[1] ** -0.5).softmax(dim=2)
        mixed = torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape)
        return x + self.conv(f"{name}.proj_out", mixed)

    def end(self, name: str, x: Tensor) -> Tensor:
        h = self.norm(f"{name}.norm_out", x)
        return self.conv(f"{name}.conv_out", h * h.sigmoid(), 1)

    def middle(self, name: str, x: Tensor) -> Tensor:
        x = self.attention(f"{name}.mid.attn_1", self.block(f"{name}.mid.block_1", x))
        return self.block(f"{name}.mid.block_2", x)

    def level(self, name: str, x: Tensor, blocks: int, attention: bool) -> Tensor:
        for i in range(blocks):
            x = self.block(f"{name}.block.{i}", x)
            if attention:
                x = self.attention(f"{name}.attn.{i}", x)
        return x

    def encode(self, images: Tensor) -> Tensor:
        x = self.conv("encoder.conv_in", images * 2 - 1, 1)
        for level in range(LEVELS):
            x = self.level(f"encoder.down.{level}", x, self.blocks, level in ATTENTION)
            if level < LEVELS - 1:
                padded = F.pad(x, (0, 1, 0, 1))
                x = self.conv(f"encoder.down.{level}.downsample.conv", padded, stride=2)
        z = self.conv("quant_conv", self.end("encoder", self.middle("encoder", x)))
        if self.gumbel:
            return self.conv("quantize.proj", z).argmax(dim=1)
        table = self.state["quantize.embedding.weight"]
        apart = z.movedim(1, -1)[..., None, :] - table
        return apart.square().sum(dim=-1).argmin(dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        table = self.state["quantize.embed.weight" if self.gumbel else "quantize.embedding.weight"]
        x = self.conv("post_quant_conv", table[codes].movedim(-1, 1))
        x = self.middle("decoder", self.conv("decoder.conv_in", x, 1))
        for level in reversed(range(LEVELS)):
            x = self.level(f"decoder.up.{level}", x, self.blocks + 1, level in ATTENTION)
            if level > 0:
                twice = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                x = self.conv(f"decoder.up.{level}.upsample.conv", twice, 1)
        return ((self.end("decoder", x) + 1) / 2).clamp(0, 1)


# files with them ----------------------------------------------------------------------------------


@pytest.fixture
def classes(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Classes under the names that checkpoints of PyTorch Lightning know them by."""

    def make(full: str, base: type = object) -> type:
        module, name = full.rsplit(".", 1)
        made = type(name, (base,), {"__module__": module})
        held = types.ModuleType(module)
        setattr(held, name, made)
        for parent in list(_parents(module)):
            if parent not in sys.modules:
                monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        monkeypatch.setitem(sys.modules, module, held)
        return made

    return types.SimpleNamespace(
        checkpoint=make("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
        attributes=make("pytorch_lightning.utilities.parsing.AttributeDict", dict),
        settings=make("omegaconf.dictconfig.DictConfig"),
        node=make("omegaconf.nodes.AnyNode"),
        other=make("pytorch_lightning.callbacks.unknown.Unknown"),
    )


def _parents(module: str) -> Any:
    parts = module.split(".")
    return (".".join(parts[:i]) for i in range(1, len(parts)))


def lightning(state: State, classes: types.SimpleNamespace) -> dict[str, Any]:
    """What `Trainer.save_checkpoint` writes, with the discriminator and LPIPS in the state."""
    settings, node = classes.settings(), classes.node()
    node.__dict__ = {"_val": 4.5e-6}
    settings.__dict__ = {"_content": {"lr": node, "of": dict}, "_metadata": None}
    extra = {
        "loss.perceptual_loss.net.slice1.0.weight": torch.randn(4, 3, 3, 3),
        "loss.discriminator.main.3.num_batches_tracked": torch.tensor(7),
    }
    return {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "1.0.8",
        "callbacks": {classes.checkpoint: {"best_model_score": torch.tensor(0.5), "dirpath": "x"}},
        "optimizer_states": [{"state": {0: {"step": 9, "exp_avg": torch.zeros(3)}}}],
        "lr_schedulers": [],
        "state_dict": collections.OrderedDict({**state, **extra}),
        "hparams_name": "hparams",
        "hyper_parameters": classes.attributes(lr=1.0, config=settings),
        "notes": collections.defaultdict(list, {1: [2]}),
    }


def description(**changes: Any) -> dict[str, Any]:
    networks = {
        "double_z": False,
        "z_channels": Z,
        "resolution": 16,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [8],
        "dropout": 0.0,
    }
    params: dict[str, Any] = {"embed_dim": WIDTH, "n_embed": CODES, "ddconfig": networks}
    for name, value in changes.items():
        (networks if name in networks or name not in params else params)[name] = value
    params["lossconfig"] = {"target": "taming.modules.losses.vqperceptual.VQLPIPS"}
    return {"model": {"target": "taming.models.vqgan.VQModel", "params": params}}


def describe(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(description(**changes)))
    return path


def agrees(tokenizer: Any, made: Made, side: int) -> None:
    images = torch.rand(2, 3, side, side)
    codes = made.encode(images)
    assert len(codes.unique()) > 3
    assert torch.equal(tokenizer.encode(images), codes)
    torch.testing.assert_close(tokenizer.decode(codes), made.decode(codes), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
@pytest.mark.parametrize("gumbel", [False, True])
def test_a_lightning_checkpoint_gives_the_same_codes_and_images(
    tmp_path, run_script, classes, gumbel, layout
) -> None:
    made, path = Made(gumbel), tmp_path / "last.ckpt"
    saved = lightning(made.state, classes)
    torch.save(saved, path, _use_new_zipfile_serialization=layout == "zip")
    config = describe(tmp_path / "model.yaml")
    out = tmp_path / "out"
    status, printed, error = run_script(vqgan.main, path, "--config", config, "--out", out)
    assert (status, error) == (0, "")
    kind = "gumbel" if gumbel else "vq"
    assert f"images of 16 pixels as 4x4 codes of 11 ({kind})" in printed
    tokenizer, stored = load_tokenizer(out)
    assert isinstance(tokenizer, VQGAN)
    assert (stored.tokenizer, stored.precision) == ("vqgan", "float32")
    agrees(tokenizer, made, 16)
    weights = load_file(out / "model.safetensors")
    assert torch.equal(weights["encoder.conv_in.weight"], made.state["encoder.conv_in.weight"])
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert not any(name.startswith("loss.") for name in weights)


def test_sizes_are_read_off_the_tensors_without_a_config(tmp_path) -> None:
    made = Made(blocks=2)
    half = {name: value.half() for name, value in made.state.items()}
    torch.save(half, tmp_path / "bare.pt")
    made.state = {name: value.float() for name, value in half.items()}
    tokenizer = vqgan.convert(tmp_path / "bare.pt", tmp_path / "out", image_size=12)
    network = tokenizer.config.network
    assert (network.width, network.multipliers, network.blocks) == (32, [1, 1, 2], 2)
    assert (network.attention_levels, network.z_channels, network.code_width) == ([1], Z, WIDTH)
    agrees(tokenizer, made, 12)
    assert vqgan.convert(tmp_path / "bare.pt", tmp_path / "usual").image_size == 256
    with pytest.raises(UserError, match="--image-size is 15: write a multiple of the 4 pixels"):
        vqgan.convert(tmp_path / "bare.pt", tmp_path / "odd", image_size=15)


def test_a_converted_tokenizer_can_be_trained_on(tmp_path) -> None:
    torch.save(Made().state, tmp_path / "bare.pt")
    vqgan.convert(tmp_path / "bare.pt", tmp_path / "out", image_size=8)
    tokenizer, _ = load_tokenizer(tmp_path / "out")
    tokenizer.train().requires_grad_(True)
    before = tokenizer.get_parameter("quantiser.codebook").detach().clone()
    report = tokenizer.loss(torch.rand(2, 3, 8, 8), 0)
    report.total.backward()
    assert tokenizer.get_parameter("quantiser.codebook").grad is not None
    assert torch.equal(tokenizer.get_parameter("quantiser.codebook"), before)  # no code is dead
    torch.testing.assert_close(
        tokenizer.get_parameter("quantiser.usage").detach().sum(), torch.tensor(1.0)
    )


# refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"decoder.up.0.block.0.norm1.weight": None, "decoder.conv_out.bias": None},
            "it lacks decoder.up.0.block.0.norm1.weight (and 1 more)",
        ),
        ({"encoder.conv_in.weight": None}, "it lacks encoder.conv_in.weight"),
        ({"quantize.embedding.weight": None}, "it lacks quantize.embedding.weight"),
        (
            {"quantize.used": torch.zeros(3), "colorize": torch.zeros(3, 1)},
            "(and 1 more), which a VQGAN of taming-transformers does not have",
        ),
        (
            {"quant_conv.bias": torch.zeros(3)},
            "quant_conv.bias is [3], where a VQGAN of taming-transformers has [5]",
        ),
        ({"encoder.conv_in.weight": torch.zeros(32, 182, 3, 3)}, "is [32, 182, 3, 3], where"),
        ({"encoder.conv_in.weight": torch.zeros(3)}, "is [3], which makes no VQGAN"),
        (
            {"encoder.down.1.block.0.conv1.weight": torch.zeros(33, 32, 3, 3)},
            "has levels of [32, 33, 64] channels",
        ),
        ({"quant_conv.bias": torch.zeros(5).long()}, "quant_conv.bias has whole numbers"),
    ],
)
def test_other_models_are_refused_by_the_first_tensor(
    tmp_path, run_script, change: dict[str, Any], message: str
) -> None:
    state = Made().state | change
    kept = {name: value for name, value in state.items() if value is not None}
    torch.save({"state_dict": kept}, tmp_path / "m.ckpt")
    out = tmp_path / "out"
    arguments = [tmp_path / "m.ckpt", "--out", out, "--image-size", 16]
    status, _, error = run_script(vqgan.main, *arguments)
    assert status == 2
    assert message in error
    assert str(tmp_path / "m.ckpt") in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ch": 64}, "ddconfig.ch is 64, theirs is 32"),
        ({"ch_mult": [1, 2, 2]}, "ddconfig.ch_mult is [1, 2, 2], theirs is [1, 1, 2]"),
        ({"attn_resolutions": [4]}, "ddconfig.attn_resolutions is [4], theirs is [8]"),
        ({"num_res_blocks": 2}, "ddconfig.num_res_blocks is 2"),
        ({"attn_resolutions": None}, "ddconfig.attn_resolutions is None, theirs is [8]"),
        ({"ch_mult": 4}, "ddconfig.ch_mult is 4"),
        ({"n_embed": 12}, "n_embed is 12, theirs is 11"),
        ({"embed_dim": 6}, "embed_dim is 6, theirs is 5"),
        ({"double_z": True}, "ddconfig.double_z is True, which is not supported"),
        ({"in_channels": 182}, "ddconfig.in_channels is 182"),
        ({"tanh_out": True}, "ddconfig.tanh_out is True"),
        ({"resolution": "large"}, "not a number of pixels"),
        ({"resolution": 18}, "write a multiple of the 4 pixels"),
        ({"ddconfig": {"ch": 3}}, "it has no 'resolution'"),
        ({"ddconfig": None}, "is no config of a VQGAN"),
    ],
)
def test_a_config_of_another_model_is_refused(
    tmp_path, changes: dict[str, Any], message: str
) -> None:
    torch.save(Made().state, tmp_path / "m.ckpt")
    config = describe(tmp_path / "model.yaml", **changes)
    with pytest.raises(UserError) as caught:
        vqgan.convert(tmp_path / "m.ckpt", tmp_path / "out", config)
    assert message in str(caught.value)
    assert "model.yaml" in str(caught.value) or "--image-size" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_config_of_stage_two_is_read_for_its_first_stage(tmp_path) -> None:
    inner = description()["model"]
    outer = {"model": {"params": {"first_stage_config": inner, "transformer_config": {}}}}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(outer))
    torch.save(Made().state, tmp_path / "m.ckpt")
    made = vqgan.convert(tmp_path / "m.ckpt", tmp_path / "out", tmp_path / "model.yaml")
    assert made.image_size == 16


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_nothing_in_a_checkpoint_runs_and_other_classes_are_named(
    tmp_path, run_script, classes, layout
) -> None:
    trace, path, out = tmp_path / "trace", tmp_path / "m.ckpt", tmp_path / "out"
    saved = lightning(Made().state, classes)
    for item, name in (
        (Payload(trace), f"{os.name}.system"),
        (classes.other, "pytorch_lightning.callbacks.unknown.Unknown"),
        (getattr, "__builtin__.getattr"),
    ):
        torch.save(
            {**saved, "callbacks": {"a": item}},
            path,
            _use_new_zipfile_serialization=layout == "zip",
        )
        status, _, error = run_script(vqgan.main, path, "--out", out)
        assert status == 2
        assert f"asks for {name}" in error
        assert error.count("\n") == 1
    assert not trace.exists()
    assert not out.exists()


def test_what_settings_name_becomes_something_inert(tmp_path, classes) -> None:
    torch.save(lightning(Made().state, classes), tmp_path / "m.ckpt")
    archive = vqgan.read_archive(tmp_path / "m.ckpt", vqgan.LIGHTNING)
    values = [*archive.root["callbacks"], archive.root["hyper_parameters"]["config"]]
    values.append(archive.root["hyper_parameters"]["config"].state["_content"]["of"])
    for value in values:
        kind = value if isinstance(value, type) else type(value)
        assert kind.__module__ == "dalle_published.unpickling"
    assert archive.root["notes"] == {1: [2]}
    with pytest.raises(UserError, match="asks for pytorch_lightning"):  # elsewhere nothing of it
        vqgan.read_archive(tmp_path / "m.ckpt")
