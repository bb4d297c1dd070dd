"""Configs of own images: sizes by one dial, and what follows run, tokenizer, data and init."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import weightless
from PIL import Image

import train_clip
import train_dalle
import train_dvae
from dalle.transformer import Transformer
from dalle_base.common.config import from_layers, load_config, read_yaml, to_yaml
from dalle_base.common.errors import UserError
from dalle_base.common.images import to_tensor
from dalle_base.data.batches import ImageDataset
from dalle_base.data.sources import open_sources
from dalle_base.training.layers import SIZES
from dalle_base.training.shares import fit_run
from dual_encoder.config import DualEncoderConfig
from dual_encoder.model import DualEncoder
from dvae.kinds import tokenizer_class
from train_clip import TrainDualEncoder
from train_dalle import TrainDALLE
from train_decoder import TrainDecoder
from train_dvae import TrainDVAE
from train_prior import TrainPrior
from unclip.checkpoint import make_decoder, make_prior

Script = Callable[..., tuple[int, str, str]]
CONFIGS = Path(__file__).parents[1] / "configs"
SCHEMAS: dict[str, Any] = {
    "dvae": TrainDVAE,
    "dalle": TrainDALLE,
    "clip": TrainDualEncoder,
    "prior": TrainPrior,
    "decoder": TrainDecoder,
}
TINY = [
    *("model.image_size=16", "model.grid=4", "model.codebook_size=12", "model.network.groups=2"),
    *("model.network.width=8", "model.network.decoder_blocks=[]", "model.network.decoder_init=8"),
    *("run.batch_size=4", "run.log_every=1", "run.evaluate_every=100"),
]
TINY_DALLE = [
    *("model.depth=2", "model.heads=2", "model.head_width=4", "model.d_model=12"),
    *("model.text_length=6", "run.batch_size=4", "run.log_every=1", "run.evaluate_every=100"),
]


def folder_config(script: str, *overrides: str) -> Any:
    files = {"vqgan": "dvae/folder-vqgan.yaml"}
    files |= {kind: f"unclip/folder-{kind}.yaml" for kind in ("prior", "decoder")}
    file = files.get(script, f"{script}/folder.yaml")
    schema = SCHEMAS["dvae" if script == "vqgan" else script]
    return load_config(schema, "", ["--config", str(CONFIGS / file), *overrides])


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_there_is_a_preset_of_each_size_for_each_script() -> None:
    presets = read_yaml(SIZES)
    assert presets.keys() == SCHEMAS.keys() | {"tokenizer=vqgan"}
    assert {tuple(sizes) for sizes in presets.values()} == {("small", "base", "large")}


@pytest.mark.parametrize("script", [*SCHEMAS, "vqgan"])
def test_each_size_builds_and_the_next_one_is_larger(script: str) -> None:
    counts = []
    for size in ("small", "base", "large"):
        config = folder_config(script, f"size={size}")
        assert config.run.passes > 0
        assert config.optimiser.decay_updates == config.run.updates
        with weightless():
            if script in ("dvae", "vqgan"):
                model: Any = tokenizer_class(config.tokenizer)(config.model)
            elif script in ("prior", "decoder"):
                make: Any = make_prior if script == "prior" else make_decoder
                model = make(config.model, DualEncoderConfig())
            else:
                model = (Transformer if script == "dalle" else DualEncoder)(config.model)
        counts.append(sum(p.numel() for p in model.parameters()))
    assert counts == sorted(counts)
    assert counts[0] < 6e6
    assert counts[2] > 10 * counts[0]


def test_sizes_of_the_three_scripts_fit_one_another() -> None:
    for size in ("small", "base"):
        kinds = ("dvae", "dalle", "clip")
        dvae, dalle, clip = (folder_config(script, f"size={size}") for script in kinds)
        vqgan = folder_config("vqgan", f"size={size}")
        shapes = [(c.model.image_size, c.model.grid, c.model.codebook_size) for c in (dvae, vqgan)]
        assert shapes[0] == shapes[1]
        assert clip.model.image_size == dvae.model.image_size
        assert clip.model.vocab_size == dalle.model.text_vocab + 2
        assert clip.model.text_length == dalle.model.text_length + 2


def test_what_is_written_counts_more_than_the_size(tmp_path: Path) -> None:
    assert folder_config("dvae", "size=base").model.image_size == 128
    changed = folder_config("dvae", "size=base", "model.codebook_size=300", "run.batch_size=3")
    assert (changed.model.codebook_size, changed.run.batch_size) == (300, 3)
    assert changed.model.grid == 16
    (tmp_path / "mine.yaml").write_text(
        f"base: {CONFIGS / 'dvae/folder.yaml'}\nsize: base\nmodel: {{codebook_size: 77}}\n"
    )
    mine = load_config(TrainDVAE, "", ["--config", str(tmp_path / "mine.yaml")])
    assert (mine.model.codebook_size, mine.model.grid) == (77, 16)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["size=huge"], "size is 'huge'; use one of small, base, large"),
        (["size=3"], "size is '3'; use one of small"),
        (["tokenizer=vqgan"], r"unknown key model\.objective\.kl_weight"),
        (["tokenizer=dalle"], "tokenizer is 'dalle'; use one of dvae, vqgan"),
        (["optimiser.decay_updates=x%"], r"wrong type for optimiser\.decay_updates: 'x%'"),
        (["model.grid=50%"], r"wrong type for model\.grid: '50%'"),
        (["run.shares={model.grid: 0.5}"], r"run\.shares\.model\.grid is 0\.5"),
        (["run.passes=-1"], r"run\.passes"),
    ],
)
def test_mistakes_are_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        folder_config("dvae", *overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("script", SCHEMAS)
def test_nothing_is_mirrored(script: str, tmp_path: Path) -> None:
    """Twenty images of an arrow that points left: all that training sees still do."""
    array = np.full((32, 32, 3), 255, np.uint8)
    array[8:24, :12] = 0  # dark on the left
    for number in range(20):
        Image.fromarray(array).save(tmp_path / f"{number:02d}.png")
        (tmp_path / f"{number:02d}.txt").write_text("points left")
    config = folder_config(script, f"data.path={tmp_path}")
    train, _ = open_sources(config.data)
    images = ImageDataset(train, 16, config.data.augment)
    pixels = to_tensor([images[i % len(images), i].pixels for i in range(100)]).mean(dim=1)
    assert (pixels[:, :, :8].mean(dim=(1, 2)) < pixels[:, :, 8:].mean(dim=(1, 2))).all()


def test_schedules_are_shares_of_the_run_unless_a_number_is_written() -> None:
    short = folder_config("dvae", "run.updates=200")
    assert short.optimiser.decay_updates == 200
    assert short.optimiser.warmup_updates == 6
    assert short.model.objective.temperature_updates == 134
    assert short.run.shares["model.objective.temperature_updates"] == 0.67
    fixed = folder_config("dvae", "run.updates=200", "optimiser.decay_updates=9000")
    assert fixed.optimiser.decay_updates == 9000
    assert "optimiser.decay_updates" not in fixed.run.shares
    again = folder_config("dvae", "run.updates=10", "model.objective.adversarial.start=50%")
    assert again.model.objective.adversarial.start == 5
    assert again.optimiser.warmup_updates == 1


@pytest.mark.parametrize("name", ["dvae/emoji", "dalle/emoji", "clip/emoji", "dalle/shapes"])
def test_the_shipped_configs_follow_a_shorter_run(name: str) -> None:
    file = ["--config", str(CONFIGS / f"{name}.yaml")]
    schema = SCHEMAS[name.partition("/")[0]]
    assert load_config(schema, "", [*file, "run.updates=20"]).optimiser.decay_updates == 20
    usual = load_config(schema, "", file)
    assert usual.optimiser.decay_updates == usual.run.updates


def test_a_config_that_was_written_is_read_back_as_it_was() -> None:
    for script, schema in SCHEMAS.items():
        config = folder_config(script, "run.updates=300")
        stored = parse(to_yaml(config))
        assert from_layers(schema, [stored], "a test") == config
        longer = from_layers(schema, [stored, {"run": {"updates": 600}}], "a test")
        assert longer.optimiser.decay_updates == 600


def parse(text: str) -> dict[str, Any]:
    from dalle_base.common.config import parse_yaml

    return parse_yaml(text)


def fitted(images: int, *overrides: str, processes: int = 1) -> Any:
    config = folder_config("dvae", *overrides)
    accelerator = SimpleNamespace(num_processes=processes, is_main_process=True)
    run = SimpleNamespace(config=config, options=config.run, accelerator=accelerator)
    fit_run(run, [None] * images)
    return config


def test_a_runs_length_follows_a_small_folder() -> None:
    whole = folder_config("dvae").run
    assert fitted(10**6).run.updates == whole.updates
    least = fitted(3)
    assert least.run.updates == whole.updates // 4
    assert least.optimiser.decay_updates == whole.updates // 4
    images = whole.updates * whole.batch_size // 2 // 100  # half of the run in 100 passes
    half = fitted(images)
    assert half.run.updates == pytest.approx(whole.updates / 2, abs=1)
    assert half.optimiser.decay_updates == half.run.updates
    assert fitted(2 * images, processes=2).run.updates == half.run.updates
    asked = fitted(3, "run.updates=700")
    assert (asked.run.updates, asked.run.passes) == (700, 0)
    assert fitted(3, "run.updates=700", "run.passes=1").run.updates == 175


def test_schedules_that_outlast_the_run_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    fitted(3, "run.updates=20", "optimiser.decay_updates=9000")
    (line,) = capsys.readouterr().out.splitlines()
    assert "optimiser.decay_updates=9000" in line
    assert "run of 20 updates" in line
    fitted(3, "run.updates=20")
    fitted(3, "run.updates=20", "optimiser.decay_updates=9000", "optimiser.schedule=constant")
    assert capsys.readouterr().out == ""


@pytest.fixture
def tokenizer(image_folder: Path, tmp_path: Path, run_script: Script) -> Path:
    """A tokenizer of a folder's images, by the command of README.md and tiny sizes."""
    file = ("--config", str(CONFIGS / "dvae/folder.yaml"))
    places = (f"data.path={image_folder}", f"run.out={tmp_path / 'dvae'}")
    status, printed, error = run_script(train_dvae.main, *file, *places, *TINY, "run.updates=4")
    assert status == 0, error
    assert f"wrote {tmp_path / 'dvae/tokenizer'}" in printed
    return tmp_path / "dvae/tokenizer"


def train_transformer(run_script: Script, tokenizer: Path, *overrides: str) -> tuple[int, str, str]:
    file = ("--config", str(CONFIGS / "dalle/folder.yaml"))
    root = tokenizer.parents[1]
    places = (f"data.path={root / 'images'}", f"run.out={root / 'dalle'}")
    return run_script(
        train_dalle.main, *file, *places, f"tokenizer={tokenizer}", *TINY_DALLE, *overrides
    )


def test_the_chain_of_own_images(tokenizer: Path, run_script: Script) -> None:
    log = log_of(tokenizer.parent)
    assert log[3]["lr"] < log[1]["lr"]
    assert read_yaml(tokenizer.parent / "checkpoint/config.yaml")["optimiser"]["decay_updates"] == 4

    status, printed, error = train_transformer(run_script, tokenizer, "run.updates=3")
    assert status == 0, error
    assert "captions are cut at 6 tokens" in printed
    assert "model.text_length=" in printed
    model = tokenizer.parents[1] / "dalle/model"
    stored = read_yaml(model / "config.yaml")["model"]
    assert [stored[key] for key in ("rows", "columns", "image_vocab")] == [4, 4, 12]

    before = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    status, printed, error = train_transformer(run_script, tokenizer, "run.updates=2")
    assert status == 0, error
    assert "already at 3 updates" in printed
    assert "wrote" not in printed
    assert before == {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    shutil.rmtree(model)
    status, printed, error = train_transformer(run_script, tokenizer, "run.updates=3")
    assert status == 0
    assert "there is no" in printed

    status, printed, error = train_transformer(run_script, tokenizer, "run.updates=5")
    assert status == 0, error
    assert "run.updates was 3 and is 5 now" in printed
    assert [line["step"] for line in log_of(model.parent) if "lr" in line] == [1, 2, 3, 4, 5]


def test_sizes_that_are_written_must_still_fit(tokenizer: Path, run_script: Script) -> None:
    status, _, error = train_transformer(run_script, tokenizer, "run.updates=1", "model.rows=8")
    assert status == 2
    assert "model.rows=8 does not fit" in error
    status, _, error = train_transformer(
        run_script, tokenizer, "run.updates=1", "model.rows=0", "model.image_vocab=12"
    )
    assert status == 0, error


def test_a_finished_tokenizer_is_left_as_it_was(tokenizer: Path, run_script: Script) -> None:
    weights = tokenizer / "model.safetensors"
    before = weights.stat().st_mtime_ns
    file = ("--config", str(CONFIGS / "dvae/folder.yaml"))
    root = tokenizer.parents[1]
    places = (f"data.path={root / 'images'}", f"run.out={root / 'dvae'}")
    status, printed, error = run_script(train_dvae.main, *file, *places, *TINY, "run.updates=2")
    assert status == 0, error
    assert "already at 4 updates" in printed
    assert "as it was" in printed
    assert weights.stat().st_mtime_ns == before


def test_a_dual_encoder_of_own_images(image_folder: Path, tmp_path: Path, run_script) -> None:
    file = ("--config", str(CONFIGS / "clip/folder.yaml"))
    sizes = (
        *("model.embed_dim=8", "model.image_size=16", "model.text_length=6", "run.batch_size=4"),
        *("model.vision={width: 8, layers: 1, heads: 2}", "run.updates=2"),
        *("model.text={width: 8, layers: 1, heads: 2}", f"run.out={tmp_path / 'clip'}"),
    )
    status, printed, error = run_script(train_clip.main, *file, f"data.path={image_folder}", *sizes)
    assert status == 0, error
    assert "captions are cut at 4 tokens" in printed
    assert f"wrote {tmp_path / 'clip/model'}" in printed


def test_a_model_to_start_from_gives_its_sizes() -> None:
    """With `init` alone, a config of own images fits the shipped models."""
    dalle = folder_config("dalle", "init=models/emoji")
    assert (dalle.model.depth, dalle.model.d_model, dalle.model.text_length) == (6, 256, 16)
    assert (dalle.model.norm, dalle.model.activation) == ("rms", "squared_relu")
    assert dalle.tokenizer == "models/emoji/tokenizer"
    dvae = folder_config("dvae", "init=models/shapes/tokenizer")
    assert (dvae.model.network.width, dvae.model.network.bottleneck) == (64, 4)
    vqgan = folder_config("vqgan", "init=models/emoji/tokenizer")
    assert (vqgan.model.network.decoder.blocks, vqgan.model.codebook_size) == (1, 2048)
    clip = folder_config("clip", "init=models/emoji/reranker")
    assert (clip.model.vision.width, clip.model.text.width) == (192, 160)
    assert folder_config("dalle", "init=models/emoji", "model.text_length=9").model.text_length == 9
    assert not folder_config("dalle", "init=nowhere").codebook_init  # said when it is opened
