"""Published CLIP weights: what is read, what is asked for, what is refused."""

import gzip
import itertools
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dalle_base.common.errors import UserError
from dalle_base.data.text import PADDING
from dalle_published import clip, dvae
from dalle_published.clip_vocabulary import MERGES, byte_alphabet, clip_text, find_vocabulary
from dalle_published.open_clip_config import FILE as CONFIG
from dual_encoder.checkpoint import load_dual_encoder
from dual_encoder.config import DualEncoderConfig, TowerConfig
from dual_encoder.model import DualEncoder
from dvae.checkpoint import load_tokenizer, save_tokenizer
from dvae.config import DVAEConfig, NetworkConfig
from dvae.kinds import SavedTokenizer
from dvae.model import DiscreteVAE


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary of CLIP's size whose merges are pairs of letters."""
    path = tmp_path_factory.mktemp("vocabulary") / "bpe.txt.gz"
    pairs = itertools.islice(itertools.product(byte_alphabet(), repeat=2), MERGES)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs), "more than is used"]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    torch.manual_seed(0)
    config = DualEncoderConfig(
        embed_dim=16,
        image_size=16,
        patch_size=8,
        vision=TowerConfig(128, 1, 2),
        text_length=9,
        text=TowerConfig(64, 1, 1),
    )
    return DualEncoder(config).eval()


@pytest.fixture
def state(model: DualEncoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def description(**changes: Any) -> dict[str, Any]:
    config = {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 16, "layers": 1, "width": 128, "patch_size": 8},
            "text_cfg": {"context_length": 9, "vocab_size": 49408, "width": 64, "heads": 1},
        },
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    }
    for place, value in changes.items():
        *parts, name = place.split("__")
        target: Any = config
        for part in parts:
            target = target[part]
        target[name] = value
    return config


def test_the_activation_is_asked_for_and_never_guessed(
    tmp_path, run_script, state, model, vocabulary
) -> None:
    path, out = tmp_path / "weights.bin", tmp_path / "out"
    save_file(state, path)  # the content tells the format, not the name
    arguments = [path, out, "--vocabulary", vocabulary]
    status, _, error = run_script(clip.main, *arguments)
    assert status == 2
    assert "write --activation quick_gelu (OpenAI's weights) or --activation gelu" in error
    assert not out.exists()
    status, printed, error = run_script(clip.main, *arguments, "--activation", "gelu")
    assert (status, error) == (0, "")
    assert "gelu" in printed
    loaded = load_dual_encoder(out).model
    assert loaded.config.activation == "gelu"
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert (loaded.config.vision, loaded.config.text) == (model.config.vision, model.config.text)
    # What is there already is kept.
    before = (out / "model.safetensors").read_bytes()
    status, _, error = run_script(clip.main, *arguments, "--activation", "quick_gelu")
    assert status == 2
    assert "exists already" in error
    assert (out / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"model_cfg__quick_gelu": True}, None),
        pytest.param({"model_cfg__vision_cfg__patch_dropout": 0.5}, None, marks=pytest.mark.slow),
        ({"model_cfg__text_cfg__no_causal_mask": False}, None),
        ({"model_cfg__text_cfg__no_causal_mask": True}, "text_cfg.no_causal_mask is true"),
        ({"model_cfg__vision_cfg__pool_type": "avg"}, 'vision_cfg.pool_type is "avg"'),
        ({"model_cfg__text_cfg__hf_tokenizer_name": "x"}, "text_cfg.hf_tokenizer_name"),
        ({"model_cfg__vision_cfg__act_kwargs": {"approximate": "tanh"}}, "act_kwargs"),
        ({"preprocess_cfg__resize_mode": "squash"}, "resize_mode"),
        ({"preprocess_cfg__mean": "grey"}, "mean is"),
        ({"preprocess_cfg__std": [1, 1]}, "three numbers"),
        ({"model_cfg__vision_cfg__head_width": "64"}, "head_width is"),
        ({"model_cfg__vision_cfg__head_width": 48}, "no CLIP model with heads of 48"),
        ({"model_cfg__text_cfg__heads": 7}, "heads=7 does not divide"),
        ({"model_cfg__vision_cfg__width": 256}, "describes another model"),
        ({"model_cfg__text_cfg": None}, "is no config of open_clip"),
        ({"model_cfg": []}, "is no config of open_clip"),
    ],
)
def test_a_config_beside_the_file_is_read_or_refused(
    tmp_path, state, vocabulary, changes, message
) -> None:
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / CONFIG).write_text(json.dumps(description(**changes)))
    arguments: Any = (tmp_path / "model.safetensors", tmp_path / "out", None, vocabulary)
    if message:
        with pytest.raises(UserError, match=message.replace(".", r"\.")):
            clip.convert(*arguments)
        assert not (tmp_path / "out").exists()
        return
    config = clip.convert(*arguments).model.config
    assert config.activation == ("quick_gelu" if "model_cfg__quick_gelu" in changes else "gelu")
    assert config.mean == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("visual.proj"), "lacks visual.proj"),
        (lambda s: s.pop("visual.conv1.weight"), "lacks visual.conv1.weight"),
        (lambda s: s.update({"logit_bias": torch.zeros(())}), "has logit_bias"),
        (
            lambda s: s.update({"visual.layer1.0.conv1.weight": torch.zeros(1)}),
            "is a ResNet (visual.layer1.0.conv1.weight)",
        ),
        (
            lambda s: s.update({"vision_model.embeddings.class_embedding": torch.zeros(1)}),
            "names of the transformers library",
        ),
        (lambda s: s.update({"text.cls_emb": torch.zeros(1)}), "text tower is not CLIP's"),
        (
            lambda s: s.update({"token_embedding.weight": torch.zeros(99, 64)}),
            "has 99 text tokens",
        ),
        pytest.param(
            lambda s: s.update({"transformer.resblocks.0.mlp.c_fc.weight": torch.zeros(9, 64)}),
            "mlp.c_fc.weight is [9, 64], where a CLIP model has [256, 64]",
            marks=pytest.mark.slow,
        ),
        (
            lambda s: s.update({"visual.positional_embedding": torch.zeros(4, 128)}),
            "3 patches an image",
        ),
        (
            lambda s: s.update({"visual.conv1.weight": torch.zeros(128, 3, 8, 4)}),
            "no square patches",
        ),
        (
            lambda s: s.update({"visual.conv1.weight": torch.zeros(1280, 3, 8, 8)}),
            "width 1280 does not show",
        ),
        (
            lambda s: s.update({"visual.conv1.weight": torch.zeros(100, 3, 8, 8)}),
            "no CLIP model with heads of 64",
        ),
        (
            lambda s: s.update({"ln_final.bias": torch.zeros(64, dtype=torch.int8)}),
            "ln_final.bias has whole numbers",
        ),
    ],
)
def test_other_models_are_refused_by_name(tmp_path, run_script, state, vocabulary, change, message):
    change(state)
    arguments = [tmp_path / "out", "--vocabulary", vocabulary, "--activation", "gelu"]
    save_file(state, tmp_path / "m.safetensors")
    torch.save({"state_dict": state}, tmp_path / "m.pt")
    for name in ("m.safetensors", "m.pt"):
        status, _, error = run_script(clip.main, tmp_path / name, *arguments)
        assert status == 2
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_files_that_are_no_weights_are_named(tmp_path, run_script, state, vocabulary) -> None:
    whole = tmp_path / "whole.safetensors"
    save_file(state, whole)
    torch.save(state, tmp_path / "whole.pt")
    cases = {"empty": b"", "page": b"<html></html>"}
    for name in ("whole.safetensors", "whole.pt"):
        content = (tmp_path / name).read_bytes()
        cases |= {f"half-{name}": content[: len(content) // 2], f"start-{name}": content[:40]}
    (tmp_path / "folder").mkdir()
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    for name in (*cases, "folder", "missing", "other"):
        arguments = [tmp_path / name, tmp_path / "out", "--vocabulary", vocabulary]
        status, _, error = run_script(clip.main, *arguments)
        assert status == 2
        assert str(tmp_path / name) in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("layout", ["zip", "legacy", "script"])
def test_a_payload_never_runs(tmp_path, run_script, state, vocabulary, layout) -> None:
    trace, path, out = tmp_path / "trace", tmp_path / "m.pt", tmp_path / "out"
    saved = {"state_dict": OrderedDict(state), "extra": [Payload(trace)]}
    if layout == "script":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("m/data.pkl", pickle.dumps({"a": Payload(trace)}, 2))
            file.writestr("m/constants.pkl", pickle.dumps(()))
            file.writestr("m/code/__torch__.py", "op_version_set = 1")
    else:
        torch.save(saved, path, _use_new_zipfile_serialization=layout == "zip")
    options = ["--vocabulary", vocabulary, "--activation", "gelu"]
    for main, arguments in (
        (clip.main, [path, out, *options]),
        (dvae.main, [path, path, out]),
    ):
        status, _, error = run_script(main, *arguments)
        assert status == 2
        assert f"asks for {os.name}.system" in error
        assert error.count("\n") == 1
    assert not trace.exists()
    assert not out.exists()


def test_half_precision_prefixes_and_masks_are_taken_care_of(tmp_path, state, vocabulary) -> None:
    half = {f"module.{name}": value.half() for name, value in state.items()}
    half["module.logit_scale"] = half["module.logit_scale"].reshape(1)
    half["module.attn_mask"] = torch.zeros(9, 9)
    torch.save({"state_dict": half}, tmp_path / "m.pt")
    clip.convert(tmp_path / "m.pt", tmp_path / "out", "gelu", vocabulary)
    loaded = load_dual_encoder(tmp_path / "out").model.state_dict()
    assert all(torch.equal(loaded[name], value.half().float()) for name, value in state.items())


def test_words_end_in_the_last_letter(vocabulary) -> None:
    text_tokenizer = clip_text(vocabulary)
    assert text_tokenizer.vocab_size == 49406
    alphabet = byte_alphabet()
    single = [256 + alphabet.index("a"), 256 + alphabet.index("!")]
    ids = text_tokenizer.encode(["A !"], 4)
    assert ids.tolist() == [[*single, PADDING, PADDING]]
    assert text_tokenizer.decode(ids[0]) == "a !"
    # No merge ends a word in this vocabulary: dropping all of them takes words apart into letters.
    for dropout in (0.0, 1e-15, 0.5, 1.0):
        spelled = text_tokenizer.encode(["it's Blue"], 20, dropout, [3])[0]
        assert text_tokenizer.decode(spelled) == "it 's blue"
    assert (text_tokenizer.encode(["blue"], 20, 1.0, [3]) != PADDING).sum() == 4
    assert (text_tokenizer.encode(["blue"], 20) != PADDING).sum() < 4
    assert torch.equal(
        text_tokenizer.encode(["blue it's"], 20, 1e-15, [0]),
        text_tokenizer.encode(["blue it's"], 20),
    )


def test_a_vocabulary_is_found_or_asked_for(tmp_path, monkeypatch, vocabulary) -> None:
    monkeypatch.setattr("dalle_published.clip_vocabulary.PACKAGES", ("clip_of_nobody",))
    with pytest.raises(UserError, match="write --vocabulary FILE"):
        find_vocabulary()
    package = tmp_path / "clip_of_nobody"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="write --vocabulary FILE"):
        find_vocabulary()
    place = package / "bpe_simple_vocab_16e6.txt.gz"
    place.write_bytes(vocabulary.read_bytes())
    assert find_vocabulary() == place
    whole = gzip.decompress(vocabulary.read_bytes())
    for content in (
        b"",
        b"text",
        vocabulary.read_bytes()[:9999],
        gzip.compress(whole[:9999]),
        gzip.compress(whole.replace(b"! !\n", b"xyz !\n", 1)),
    ):
        place.write_bytes(content)
        with pytest.raises(UserError, match="is not CLIP's"):
            clip_text(place)
    with pytest.raises(UserError, match="no vocabulary"):
        clip_text(tmp_path / "missing")


def test_a_tokenizers_folder_keeps_the_precision_that_it_names(tmp_path) -> None:
    network = NetworkConfig(width=8, groups=2, blocks=1, decoder_init=8)
    config = DVAEConfig(image_size=8, grid=4, codebook_size=12, network=network)
    tokenizer = DiscreteVAE(config)
    for precision, exact in (("float32", True), ("bfloat16", False)):
        saved = SavedTokenizer("dvae", config, precision)
        save_tokenizer(tmp_path / precision, tokenizer, saved)
        loaded, read = load_tokenizer(tmp_path / precision)
        assert read == saved
        weight = "encoder.blocks.input.w"
        assert torch.equal(loaded.state_dict()[weight], tokenizer.state_dict()[weight]) is exact
    with pytest.raises(UserError, match="precision is 'int8'"):
        SavedTokenizer("dvae", config, "int8").validate()


def test_files_of_openais_dvae_that_are_something_else_are_named(tmp_path, run_script) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    out = tmp_path / "out"
    status, _, error = run_script(dvae.main, tmp_path / "a.pt", tmp_path / "a.pt", out)
    assert status == 2
    assert "holds a dict, where OpenAI's encoder is dall_e.encoder.Encoder" in error
    status, _, error = run_script(dvae.main, tmp_path / "none", tmp_path / "a.pt", out)
    assert status == 2
    assert "no file" in error
    out.mkdir()
    (out / "mine").write_text("")
    status, _, error = run_script(dvae.main, tmp_path / "a.pt", tmp_path / "a.pt", out)
    assert status == 2
    assert "exists already" in error
    assert (out / "mine").exists()
