"""Configs: help, overrides, clear errors, and every shipped file parses and builds."""

from pathlib import Path

import pytest
import torch

from dalle.transformer import Transformer
from dual_encoder.model import DualEncoder
from dual_encoder.text import SPECIAL
from dvae.checkpoint import TOKENIZERS
from experiments.dvae_ablations import SMALL, VARIANTS
from train_clip import TrainDualEncoder
from train_dalle import TrainDALLE
from train_dvae import TrainDVAE
from training.config import field_docs, help_text, load_config, merge, read_yaml, walk_fields
from training.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
SCHEMAS = {"dvae": TrainDVAE, "dalle": TrainDALLE, "clip": TrainDualEncoder}


def shipped() -> list[Path]:
    return sorted(CONFIGS.glob("*/*.yaml"))


@pytest.mark.parametrize("path", shipped(), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_shipped_config_parses_and_builds(path: Path) -> None:
    config = load_config(SCHEMAS[path.parent.name], "", ["--config", str(path)])
    with torch.device("meta"):
        if isinstance(config, TrainDVAE):
            TOKENIZERS[config.tokenizer][1](config.model)
        elif isinstance(config, TrainDualEncoder):
            DualEncoder(config.model)
        else:
            Transformer(config.model)


def test_each_stage_has_the_promised_configs() -> None:
    for stage in SCHEMAS:
        names = {path.stem for path in (CONFIGS / stage).glob("*.yaml")}
        assert {"paper", "emoji", "shapes"} <= names


def test_each_stage_two_config_fits_the_stage_one_config_of_its_name() -> None:
    for name in ("paper", "emoji", "shapes"):
        stage_one = load_config(TrainDVAE, "", ["--config", str(CONFIGS / f"dvae/{name}.yaml")])
        stage_two = load_config(TrainDALLE, "", ["--config", str(CONFIGS / f"dalle/{name}.yaml")])
        assert stage_two.model.rows == stage_two.model.columns == stage_one.model.grid
        assert stage_two.model.image_vocab == stage_one.model.codebook_size


def clip_config(name: str) -> TrainDualEncoder:
    return load_config(TrainDualEncoder, "", ["--config", str(CONFIGS / f"clip/{name}.yaml")])


def test_each_dual_encoder_reads_the_pictures_and_captions_of_its_name() -> None:
    for name in ("emoji", "shapes"):
        clip = clip_config(name)
        stage_one = load_config(TrainDVAE, "", ["--config", str(CONFIGS / f"dvae/{name}.yaml")])
        stage_two = load_config(TrainDALLE, "", ["--config", str(CONFIGS / f"dalle/{name}.yaml")])
        assert clip.model.image_size == stage_one.model.image_size
        assert clip.model.vocab_size == stage_two.model.text_vocab + SPECIAL
        assert clip.model.text_length == stage_two.model.text_length + SPECIAL
        for key in ("source", "path", "held_out_path", "artist_column", "keywords_column"):
            assert getattr(clip.data, key) == getattr(stage_two.data, key)


@pytest.mark.parametrize(
    ("name", "most"), [("paper", 151_277_313), ("emoji", 4_500_000), ("shapes", 3_000_000)]
)
def test_dual_encoders_have_the_promised_sizes(name: str, most: int) -> None:
    with torch.device("meta"):
        model = DualEncoder(clip_config(name).model)
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters <= most
    assert name != "paper" or parameters == most


def test_the_papers_dual_encoder_is_the_default() -> None:
    assert clip_config("paper").model == TrainDualEncoder().model


def test_paper_configs_have_the_papers_parameter_counts() -> None:
    stage_one = load_config(TrainDVAE, "", ["--config", str(CONFIGS / "dvae/paper.yaml")])
    stage_two = load_config(TrainDALLE, "", ["--config", str(CONFIGS / "dalle/paper.yaml")])
    with torch.device("meta"):
        dvae = TOKENIZERS[stage_one.tokenizer][1](stage_one.model)
        transformer = Transformer(stage_two.model)
    counts = {
        name: sum(p.numel() for p in dvae.get_submodule(name).parameters())
        for name in ("encoder", "decoder")
    }
    assert counts == {"encoder": 53_786_240, "decoder": 43_829_766}
    assert sum(p.numel() for p in transformer.parameters()) == 12_292_836_992


def test_every_field_has_a_sentence() -> None:
    for schema in SCHEMAS.values():
        for name, _, doc in walk_fields(schema()):
            assert doc.endswith((".", "?")), f"{name} has no sentence: {doc!r}"


def test_help_lists_every_field_with_default_and_meaning(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        load_config(TrainDVAE, "usage: this", ["--help"])
    assert stop.value.code == 0
    page = capsys.readouterr().out
    assert page.startswith("usage: this")
    for name, default, _ in walk_fields(TrainDVAE()):
        assert f"{name} = {default!r}" in page
    assert field_docs(TrainDVAE)["held_out_pictures"] in help_text("", TrainDVAE())


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("run: {updates: 7, batch_size: 3}")
    config = load_config(TrainDVAE, "", ["--config", str(path), "run.updates=9"])
    assert (config.run.updates, config.run.batch_size) == (9, 3)


def test_nothing_behind_the_equals_sign_is_the_empty_string() -> None:
    config = load_config(TrainDVAE, "", ["data.held_out_path=", "data.path=a b=c"])
    assert (config.data.held_out_path, config.data.path) == ("", "a b=c")


def test_a_config_can_change_another_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("run: {updates: 7, batch_size: 3}")
    (tmp_path / "b.yaml").write_text("base: a.yaml\nrun: {updates: 8}")
    config = load_config(TrainDVAE, "", ["--config", str(tmp_path / "b.yaml")])
    assert (config.run.updates, config.run.batch_size) == (8, 3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run.updatse=3"], "run.updates"),
        (["run.updates=many"], "run.updates"),
        (["model.grid=16"], "model.grid"),
        (["model.grdi=8"], "model.grid"),
        (["model.network.width=wide"], "model.network.width"),
        (["model.network.norm=batch"], "model.network.norm"),
        (["optimiser.schedule=linear"], "optimiser.schedule"),
        (["data.source=web"], "data.source"),
        (["tokenizer=vqgan"], "tokenizer"),
        (["--verbose"], "--verbose"),
        (["--config"], "--config"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_key(arguments: list[str], named: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(TrainDVAE, "", arguments)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_broken_yaml_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("run: {updates: [")
    with pytest.raises(UserError, match=r"broken\.yaml") as error:
        merge(TrainDVAE(), read_yaml(path), source=str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_ablation_is_a_config(name: str) -> None:
    overrides = [text.format(half=100) for text in (*SMALL, *VARIANTS[name])]
    config = load_config(TrainDVAE, "", ["--config", str(CONFIGS / "dvae/emoji.yaml"), *overrides])
    with torch.device("meta"):
        TOKENIZERS[config.tokenizer][1](config.model)


def test_a_bare_no_is_the_precision_of_that_name() -> None:
    """YAML reads it as false."""
    config = load_config(TrainDVAE, "", ["run.mixed_precision=no"])
    assert config.run.mixed_precision == "no"
    with pytest.raises(UserError, match="use no, bf16, fp16"):
        load_config(TrainDVAE, "", ["run.mixed_precision=true"])
