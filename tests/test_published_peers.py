"""Files that the real packages make: the same features, codes and images come out.

Each package is installed without its dependencies into a folder of its own, and runs in a process
of its own: tests/peers.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import sample
import train_dalle
from dalle_base.common.errors import UserError
from dalle_published import clip, dvae, vqgan
from dalle_published.clip_vocabulary import FILE, clip_text
from dual_encoder.checkpoint import load_dual_encoder
from dual_encoder.model import DualEncoder
from dual_encoder.text import encode_captions
from dvae.checkpoint import load_tokenizer
from dvae.model import DiscreteVAE

PEERS = Path(__file__).parent / "peers"
PACKAGES = {
    "clip": ["clip-anytorch==2.6.0", "ftfy==6.3.1", "wcwidth==0.2.13", "regex==2026.11.19"],
    "open_clip": ["open_clip_torch==3.3.0", "ftfy==6.3.1", "wcwidth==0.2.13", "regex==2026.11.19"],
    "dall_e": ["DALL-E==0.1", "attrs==25.3.0"],
    "taming": ["taming-transformers-rom1504==0.0.6"],
}
UNREACHABLE = ("Retrying (", "NewConnectionError", "Network is unreachable")
CAPTIONS = [
    "a photo of a cat",
    "Two RED hearts, on a (blue) ground!",
    "don't you're we'll I'd 's 't",
    "1984: 3.14159 + 2^10 = 100%",
    "café naïve ÀÉ résumé zażółć",
    "cafe\u0301 with a combining accent",
    "👍🏽 a hedgehog 🦔, a flag 🇵🇱 and 👨‍👩‍👧",
    "“curly” ‘quotes’ it’s—so…",
    "ﬁne ﬂoor ΟΔΥΣΣΕΥΣ Straße",
    "日本語 テキスト, हिन्दी, مرحبا",
    "  white\tspace \n and   more ",
    "snake_case CamelCase #tag @at $5.00 a/b\\c ~!@#$%^&*()",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "x",
]
Script = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Return a function that gives a package's folder and that of the files it made."""
    made: dict[str, tuple[Path, Path]] = {}

    def run(name: str) -> tuple[Path, Path]:
        if name not in made:
            package, out = (tmp_path_factory.mktemp(f"{name}-{kind}") for kind in ("at", "out"))
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            install += [
                "--retries",
                "1",
                "--disable-pip-version-check",
                "--target",
                str(package),
                *PACKAGES[name],
            ]
            done = subprocess.run(install, capture_output=True, text=True)
            if any(sign in done.stderr for sign in UNREACHABLE) and done.returncode:
                pytest.skip(f"pip cannot reach its index to install {PACKAGES[name][0]}")
            assert done.returncode == 0, done.stderr
            (out / "captions.json").write_text(json.dumps(CAPTIONS), encoding="utf-8")
            environment = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "2"}
            script = [sys.executable, str(PEERS / f"{name}_files.py"), str(out)]
            done = subprocess.run(script, capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stderr
            made[name] = (package, out)
        return made[name]

    return run


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def image_features(model: DualEncoder, normalised: Tensor) -> Tensor:
    """Features of pixels that are normalised already, as the packages take them."""
    return model.encode_image(normalised * model.std + model.mean)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_openais_archives_give_the_same_features(peer, tmp_path, run_script, precision) -> None:
    package, files = peer("clip")
    arguments = [files / f"clip-{precision}.pt", tmp_path / "out"]
    vocabulary = package / "clip" / FILE
    status, printed, error = run_script(clip.main, *arguments, "--vocabulary", vocabulary)
    assert (status, error) == (0, "")
    assert "images of 32 pixels in patches of 8" in printed
    assert "quick_gelu" in printed
    wrong = [arguments[0], tmp_path / "wrong", "--vocabulary", vocabulary, "--activation", "gelu"]
    status, _, error = run_script(clip.main, *wrong)
    assert status == 2
    assert "was trained with quick_gelu, so --activation gelu is wrong" in error
    ranker = load_dual_encoder(tmp_path / "out")
    model, text_tokenizer = ranker.model, ranker.text_tokenizer
    assert model.config.vision.heads == 2
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    answer = load_file(files / "clip.safetensors")
    close(image_features(model, answer["images"]), answer[f"image-{precision}"])
    tokens = encode_captions(text_tokenizer, CAPTIONS[:2], model.config)
    close(model.encode_text(tokens), answer[f"text-{precision}"])


def test_captions_get_the_ids_of_clips_own_encoding(peer, tmp_path) -> None:
    package, files = peer("clip")
    text_tokenizer = clip_text(package / "clip" / FILE)
    expected = json.loads((files / "ids.json").read_text(encoding="utf-8"))
    for caption in CAPTIONS:
        for found in (
            text_tokenizer.encode([caption], 99),
            text_tokenizer.encode([caption], 99, 1e-15, [0]),
        ):
            assert found[0][found[0] >= 0].tolist() == expected[caption], caption
        text_tokenizer.save(tmp_path / "text.json")
        assert text_tokenizer.decode(text_tokenizer.encode([caption], 99)[0]).split()
    assert clip_text(package / "clip" / FILE).decode(expected[CAPTIONS[1]]) == (
        "two red hearts , on a ( blue ) ground !"
    )


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize(
    "name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "epoch_1.pt"]
)
def test_open_clips_files_give_the_same_features(peer, tmp_path, activation, name) -> None:
    package, files = peer("open_clip")
    vocabulary = package / "open_clip" / FILE
    clip.convert(files / activation / name, tmp_path / "out", vocabulary=vocabulary)
    ranker = load_dual_encoder(tmp_path / "out")
    model, text_tokenizer = ranker.model, ranker.text_tokenizer
    config = model.config
    assert (config.activation, config.vision.heads, config.text.heads) == (activation, 4, 2)
    assert (config.mean, config.std) == ([0.5, 0.4, 0.3], [0.3, 0.2, 0.1])
    answer = load_file(files / "open.safetensors")
    close(image_features(model, answer["images"]), answer[f"image-{activation}"])
    tokens = encode_captions(text_tokenizer, CAPTIONS[:2], config)
    assert torch.equal(tokens.clamp(min=0), answer["text"])
    close(model.encode_text(tokens), answer[f"text-{activation}"])
    other = {"gelu": "quick_gelu", "quick_gelu": "gelu"}[activation]
    with pytest.raises(UserError, match=f"was trained with {activation}"):
        clip.convert(files / activation / name, tmp_path / "other", other, vocabulary)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_openais_dvae_gives_the_same_codes_and_images(peer, tmp_path, run_script, layout) -> None:
    _, files = peer("dall_e")
    parts = [files / f"{name}-{layout}.pkl" for name in ("encoder", "decoder")]
    out = tmp_path / "out"
    status, printed, error = run_script(dvae.main, *parts, out, "--image-size", "32")
    assert (status, error) == (0, "")
    assert "images of 32 pixels as 4x4 codes of 512" in printed
    tokenizer, saved = load_tokenizer(out)
    assert isinstance(tokenizer, DiscreteVAE)
    assert saved.precision == "float32"
    answer = load_file(files / "dall_e.safetensors")
    close(tokenizer.logits(answer["images"]), answer["logits"])
    assert torch.equal(tokenizer.encode(answer["images"]), answer["codes"])
    close(tokenizer.decode(answer["codes"]), answer["decoded"])
    swapped = [parts[1], parts[0], tmp_path / "swapped"]
    status, _, error = run_script(dvae.main, *swapped)
    assert status == 2
    assert "holds dall_e.decoder.Decoder, where OpenAI's encoder is dall_e.encoder" in error


@pytest.mark.parametrize("kind", ["vq", "gumbel"])
def test_tamings_vqgans_give_the_same_codes_and_images(peer, tmp_path, run_script, kind) -> None:
    _, files = peer("taming")
    arguments = [files / f"{kind}.ckpt", "--out", tmp_path / "out", "--image-size", "32"]
    status, printed, error = run_script(vqgan.main, *arguments)
    assert (status, error) == (0, "")
    assert f"images of 32 pixels as 8x8 codes of 64 ({kind})" in printed
    tokenizer, _ = load_tokenizer(tmp_path / "out")
    answer = load_file(files / "taming.safetensors")
    codes = answer[f"{kind}-codes"]
    assert len(codes.unique()) > 8
    assert torch.equal(tokenizer.encode(answer[f"{kind}-images"]), codes)
    close(tokenizer.decode(codes), answer[f"{kind}-decoded"].clamp(0, 1))


def test_stage_two_learns_and_samples_with_openais_dvae(
    peer, tmp_path, run_script: Script, image_folder: Path
) -> None:
    _, files = peer("dall_e")
    out = tmp_path / "tokenizer"
    dvae.convert(files / "encoder-zip.pkl", files / "decoder-zip.pkl", out, 32)
    status, _, error = run_script(
        train_dalle.main,
        *("model.rows=4", "model.columns=4", "model.image_vocab=512", "model.text_vocab=300"),
        *("model.text_length=8", "model.d_model=16", "model.heads=2", "model.head_width=8"),
        *("model.depth=1", "run.batch_size=4", "run.updates=1", "data.held_out_share=0.3"),
        *(f"tokenizer={out}", f"data.path={image_folder}", f"run.out={tmp_path / 'run'}"),
    )
    assert status == 0, error
    model = tmp_path / "run/model"
    arguments = ["--model", model, "--text", "red", "--candidates", 1, "--out", tmp_path / "new"]
    status, _, error = run_script(sample.main, *arguments)
    assert status == 0, error
    # The model's own copy is the very tokenizer it was trained with, not a rounded one.
    first, second = (load_file(f / "model.safetensors") for f in (out, model / "tokenizer"))
    assert all(torch.equal(first[name], second[name]) for name in first)
