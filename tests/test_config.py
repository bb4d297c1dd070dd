"""Configs: help, overrides, clear errors, and every shipped file parses and builds."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from builders import weightless

from dalle.config import TransformerConfig
from dalle.transformer import Transformer
from dalle_base.common.config import help_text, load_config, parse_yaml, read_yaml, to_yaml
from dalle_base.common.errors import UserError
from dalle_base.common.schema import build, field_docs, sections, walk_fields
from dalle_base.data.config import AugmentConfig, DataConfig
from dalle_base.data.sources import data_of
from dalle_base.data.sources.folder import FolderConfig
from dalle_base.data.sources.hub import DatasetsConfig
from dalle_base.data.sources.shapes import ShapesConfig
from dual_encoder.model import DualEncoder
from dual_encoder.text import SPECIAL
from dvae.kinds import tokenizer_class
from train_clip import TrainDualEncoder
from train_dalle import TrainDALLE
from train_dvae import TrainDVAE

CONFIGS = Path(__file__).parents[1] / "configs"
SCHEMAS = {"dvae": TrainDVAE, "dalle": TrainDALLE, "clip": TrainDualEncoder}


def shipped() -> list[Path]:
    return sorted(path for name in SCHEMAS for path in (CONFIGS / name).glob("*.yaml"))


@cache
def built(path: Path) -> Any:
    """The model of a shipped config, without weights."""
    config = load_config(SCHEMAS[path.parent.name], "", ["--config", str(path)])
    with weightless():
        if isinstance(config, TrainDVAE):
            return tokenizer_class(config.tokenizer)(config.model)
        if isinstance(config, TrainDualEncoder):
            return DualEncoder(config.model)
        return Transformer(config.model)


@pytest.mark.parametrize("path", shipped(), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_shipped_config_parses_and_builds(path: Path) -> None:
    assert sum(p.numel() for p in built(path).parameters()) > 1000


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


def to_values(data: DataConfig) -> list[tuple[str, Any]]:
    """What a source is told, its augmentation apart."""
    return [(n, value) for n, value, _ in walk_fields(data) if not n.startswith("augment.")]


def clip_config(name: str) -> TrainDualEncoder:
    return load_config(TrainDualEncoder, "", ["--config", str(CONFIGS / f"clip/{name}.yaml")])


def test_each_dual_encoder_reads_the_images_and_captions_of_its_name() -> None:
    for name in ("emoji", "shapes"):
        clip = clip_config(name)
        stage_one = load_config(TrainDVAE, "", ["--config", str(CONFIGS / f"dvae/{name}.yaml")])
        stage_two = load_config(TrainDALLE, "", ["--config", str(CONFIGS / f"dalle/{name}.yaml")])
        assert clip.model.image_size == stage_one.model.image_size
        assert clip.model.vocab_size == stage_two.model.text_vocab + SPECIAL
        assert clip.model.text_length == stage_two.model.text_length + SPECIAL
        ours, theirs = (dict(to_values(data)) for data in (clip.data, stage_two.data))
        assert ours == theirs


@pytest.mark.parametrize(
    ("name", "most"), [("paper", 151_277_313), ("emoji", 4_500_000), ("shapes", 3_000_000)]
)
def test_dual_encoders_have_the_promised_sizes(name: str, most: int) -> None:
    parameters = sum(p.numel() for p in built(CONFIGS / f"clip/{name}.yaml").parameters())
    assert parameters <= most
    assert name != "paper" or parameters == most


def test_the_papers_dual_encoder_is_the_default() -> None:
    assert clip_config("paper").model == TrainDualEncoder().model


def test_paper_configs_have_the_papers_parameter_counts() -> None:
    dvae, transformer = (built(CONFIGS / name) for name in ("dvae/paper.yaml", "dalle/paper.yaml"))
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


def help_page(capsys: pytest.CaptureFixture, schema: type, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        load_config(schema, "usage: this", [*arguments, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def shown(page: str) -> dict[str, str]:
    """What a help page gives as the fields' values, as they are typed into a shell."""
    lines = re.findall(r"^  (\S+) = (.*?)(?:   \(default: .*\))?$", page, re.MULTILINE)
    return {key: "" if value == '""' else value for key, value in lines}


@pytest.mark.parametrize("schema", SCHEMAS.values())
def test_help_lists_every_field_with_default_and_meaning(
    capsys: pytest.CaptureFixture, schema: type
) -> None:
    page = help_page(capsys, schema)
    assert page.startswith("usage: this")
    assert set(shown(page)) == {name for name, _, _ in walk_fields(schema())}
    for name, default, doc in walk_fields(schema()):
        written = str(default).lower() if isinstance(default, bool) else default or '""'
        if isinstance(default, str | bool):
            assert f"\n  {name} = {written}\n" in page
        else:
            assert parse_yaml(shown(page)[name]) == default
        assert " ".join(doc.split()) in " ".join(page.split())
    assert "(default:" not in page
    assert field_docs(TrainDVAE)["held_out_images"] in " ".join(help_text(TrainDVAE, "").split())


@pytest.mark.parametrize("path", shipped(), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_what_help_shows_can_be_typed(path: Path, capsys: pytest.CaptureFixture) -> None:
    schema, file = SCHEMAS[path.parent.name], ["--config", str(path)]
    for arguments in ([], file):
        typed = [f"{k}={v}" for k, v in shown(help_page(capsys, schema, *arguments)).items()]
        assert load_config(schema, "", typed) == load_config(schema, "", arguments)


def test_help_has_a_group_for_each_section_with_what_it_is(capsys: pytest.CaptureFixture) -> None:
    page = help_page(capsys, TrainDALLE)
    for name, section, doc in sections(TrainDALLE()):
        heading = f"\n\n{name}: {doc}\n\n" if name else "\n\ngeneral:\n\n"
        assert page.count(heading) == 1
        group = re.split(r"\n\n\S", page.split(heading)[1])[0]
        prefix = f"{name}." if name else ""
        own = [f"{prefix}{n}" for n, _, _ in walk_fields(section) if "." not in n]
        assert list(shown(group)) == own


def test_help_shows_what_a_file_and_overrides_set_against_the_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("run: {updates: 7, seed: 0}\ndata: {source: shapes}\ntokenizer: a b\n")
    page = help_page(capsys, TrainDALLE, "--config", str(path), "run.batch_size=3")
    assert f"Values come from {path}" in page
    changed = re.findall(r"^  (.*) \(default: (.*)\)$", page, re.MULTILINE)
    assert {tuple(map(str.strip, pair)) for pair in changed} == {
        ("tokenizer = a b", "runs/dvae/tokenizer"),
        ("run.updates = 7", "1000"),
        ("run.batch_size = 3", "32"),
    }
    # The fields of the source that the file names, which are not those of the default source.
    assert {"data.source": "shapes", "data.count": "20000"}.items() <= shown(page).items()
    assert "data.path" not in page


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("run: {updates: 7, batch_size: 3}")
    config = load_config(TrainDVAE, "", ["--config", str(path), "run.updates=9"])
    assert (config.run.updates, config.run.batch_size) == (9, 3)


def test_nothing_behind_the_equals_sign_is_the_empty_string() -> None:
    config = load_config(TrainDVAE, "", ["data.held_out_path=", "data.path=a b=c"])
    assert (config.data.held_out_path, config.data.path) == ("", "a b=c")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    [
        *("/x/pics #2", "1e3", "007", "a: b", "${x}", "null", "true", "[1", "{a: b}", "'a'", '"a"'),
        *("a,b", "~user/x", "x/~/y", "&a", "*a", "- a", "%", "?", "é 🦔", " x ", "0x10", "no"),
    ],
)
def test_a_text_is_taken_literally(text: str) -> None:
    overrides = [f"data.path={text}", f"run.out={text}", f"init={text}"]
    config = load_config(TrainDVAE, "", overrides)
    assert (config.data.path, config.run.out, config.init) == (text,) * 3  # type: ignore[attr-defined]


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    config = load_config(TrainDVAE, "", ["data.path=~/pics #2", "run.out=~"])
    assert config.data.path == "/home/someone/pics #2"  # type: ignore[attr-defined]
    assert config.run.out == "/home/someone"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        *(("true", True), ("yes", True), ("on", True), ("True", True), ("YES", True)),
        *(("false", False), ("no", False), ("off", False), ("False", False), ("Off", False)),
    ],
)
def test_yes_and_no_may_be_said_in_several_ways(tmp_path: Path, word: str, meant: bool) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"run: {{compile: {word}}}\ndata: {{augment: {{crop: {word}}}}}")
    for arguments in (
        ["--config", str(path)],
        [f"run.compile={word}", f"data.augment.crop={word}"],
    ):
        config = load_config(TrainDVAE, "", arguments)
        assert config.run.compile is meant
        assert config.data.augment.crop is meant


@pytest.mark.parametrize(
    ("text", "value"),
    [("2e-3", 0.002), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("+1.5e+2", 150.0), ("3", 3.0)],
)
def test_numbers_with_a_power_of_ten_are_numbers(tmp_path: Path, text: str, value: float) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"optimiser: {{lr: {text}}}\nmodel: {{mean: [{text}, {text}, 0]}}")
    for arguments in (
        ["--config", str(path)],
        [f"optimiser.lr={text}", f"model.mean=[{text}, {text}, 0]"],
    ):
        config = load_config(TrainDualEncoder, "", arguments)
        assert config.optimiser.lr == value
        assert config.model.mean == [value, value, 0.0]
        assert {type(number) for number in (config.optimiser.lr, *config.model.mean)} == {float}


def test_a_list_is_written_as_in_yaml() -> None:
    config = load_config(TrainDALLE, "", ["previews=[red heart, 'a, b', no]"])
    assert config.previews == ["red heart", "a, b", "no"]


def test_a_whole_section_may_be_given_as_a_mapping() -> None:
    arguments = ["run.updates=7", "run={compile: yes, batch_size: 3}", "run.batch_size=4"]
    config = load_config(TrainDVAE, "", [*arguments, "data={source: shapes, count: 8}"])
    assert (config.run.updates, config.run.compile, config.run.batch_size) == (7, True, 4)
    assert config.data == ShapesConfig(source="shapes", count=8)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    texts = ["no", "1e3", "a: b #c", "é 🦔", "", "null", "~", "2e-3"]
    for text in texts:
        config = load_config(TrainDALLE, "", ["optimiser.lr=1e-7", "optimiser.clip=inf"])
        config.init, config.previews = text, texts
        (tmp_path / "c.yaml").write_text(to_yaml(config), encoding="utf-8")
        assert load_config(TrainDALLE, "", ["--config", str(tmp_path / "c.yaml")]) == config


def test_a_key_of_an_earlier_version_is_understood(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: {conv_kernel: 7}")
    file = ["--config", str(tmp_path / "c.yaml")]
    for arguments, kernel in (
        (file, 7),
        (["model.conv_kernel=3"], 3),
        (["model={conv_kernel: 3}"], 3),
        ([*file, "model.conv_kernel=3"], 3),
        ([*file, "model.pattern_options={conv: {kernel: 5}}"], 5),
        ([*file, "model.pattern_options.conv.kernel=5"], 5),
    ):
        model = load_config(TrainDALLE, "", arguments).model
        assert model.pattern_options == {"conv": {"kernel": kernel}}
    model = build(TransformerConfig(), {"conv_kernel": 9}, "an old model")
    assert model.pattern_options == {"conv": {"kernel": 9}}
    for schema in SCHEMAS.values():
        assert load_config(schema, "", ["held_out_pictures=5"]).held_out_images == 5
    assert load_config(TrainDualEncoder, "", ["chunk_pictures=5"]).chunk_images == 5
    stage_one = load_config(TrainDVAE, "", ["model.objective.scale=picture"])
    assert stage_one.model.objective.scale == "image"


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
        (["run.updates=1.5"], "run.updates"),
        (["run.updates.x=1"], "run.updates"),
        (["run.compile=perhaps"], "run.compile"),
        (["run=3"], "run"),
        (["run={updates: 3"], "run"),
        (["data=3"], "data"),
        (["run..updates=3"], "run..updates=3"),
        (["=3"], "=3"),
        (["run.updates"], "run.updates"),
        (["previews=[a"], "previews"),
        (["model.grid=16"], "model.grid"),
        (["model.grdi=8"], "model.grid"),
        (["model.network.width=wide"], "model.network.width"),
        (["model.network.norm=batch"], "model.network.norm"),
        (["optimiser.schedule=linear"], "optimiser.schedule"),
        (["data.source=web"], "data.source"),
        (["tokenizer=nonsense"], "tokenizer"),
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
        read_yaml(path)
    assert "\n" not in str(error.value)


def test_a_bare_no_is_the_precision_of_that_name() -> None:
    """Elsewhere YAML reads it as false."""
    config = load_config(TrainDVAE, "", ["run.mixed_precision=no"])
    assert config.run.mixed_precision == "no"
    with pytest.raises(UserError, match="use no, bf16, fp16"):
        load_config(TrainDVAE, "", ["run.mixed_precision=true"])


@pytest.mark.parametrize("word", ["no", "bf16"])
def test_a_precision_in_a_file_is_a_word_too(tmp_path: Path, word: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"run: {{mixed_precision: {word}}}")
    config = load_config(TrainDVAE, "", ["--config", str(path)])
    assert config.run.mixed_precision == word


def data_config(*arguments: str) -> DataConfig:
    return load_config(TrainDALLE, "", list(arguments)).data


def test_options_of_another_source_are_dropped_from_a_file_with_it(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "data: {source: datasets, path: a, artist_column: b, workers: 3, augment: {crop: false}}"
    )
    file = ["--config", str(path)]
    assert data_config(*file) == DatasetsConfig(
        source="datasets", path="a", artist_column="b", workers=3, augment=AugmentConfig(crop=False)
    )
    # What all sources have is kept; a path is another source's path.
    rest: dict[str, Any] = {"workers": 3, "augment": AugmentConfig(crop=False)}
    assert data_config(*file, "data.source=folder") == FolderConfig(source="folder", **rest)
    assert data_config(*file, "data.path=c", "data.source=folder") == FolderConfig(
        source="folder", path="c", **rest
    )
    assert data_config(*file, "data.source=shapes", "data.count=5") == ShapesConfig(
        source="shapes", count=5, **rest
    )
    # Named once more, the source is the file's, and so are its options.
    assert data_config(*file, "data.source=datasets", "data.path=c") == DatasetsConfig(
        source="datasets", path="c", artist_column="b", **rest
    )


def test_an_option_of_another_source_may_be_repeated_with_its_default() -> None:
    """As this project's README once had it, to switch the emoji config's columns off."""
    config = data_config(
        *("--config", str(CONFIGS / "dalle/emoji.yaml"), "data.source=folder"),
        *("data.path=my_pictures", "data.held_out_path=", "data.artist_column="),
        *("data.keywords_column=", "data.mirrorable_column="),
    )
    emoji = load_config(TrainDALLE, "", ["--config", str(CONFIGS / "dalle/emoji.yaml")]).data
    assert config == FolderConfig(source="folder", path="my_pictures", augment=emoji.augment)
    data_config("data.count=20000", "data.caption_column=caption")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["data.artist_column=x"], r"data\.artist_column is no option of data\.source=folder"),
        (["data.source=folder", "data.count=3"], r"data\.count is no option of .*=folder"),
        (["data.source=shapes", "data.path=x"], r"data\.path is no option of data\.source=shapes"),
        (["data.count=3", "data.source=datasets"], r"data\.count is no option of .*=datasets"),
        (["data={source: shapes, held_out_share: 0.1}"], r"data\.held_out_share is no option"),
    ],
)
@pytest.mark.parametrize("file", [[], ["--config", str(CONFIGS / "dvae/emoji.yaml")]])
def test_an_option_of_another_source_is_one_line_that_names_both(
    arguments: list[str], named: str, file: list[str]
) -> None:
    if file and not any("source" in argument for argument in arguments):
        arguments = ["data.source=folder", *arguments]
    with pytest.raises(UserError, match=named) as error:
        data_config(*file, *arguments)
    assert "\n" not in str(error.value)


def test_a_file_may_not_have_options_of_another_source_either(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: {source: shapes, artist_column: x}")
    with pytest.raises(UserError, match=r"data\.artist_column is no option of data\.source=shapes"):
        data_config("--config", str(tmp_path / "c.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {updatse: 3}", r"unknown key run\.updatse; did you mean run\.updates\?"),
        ("qqqqqq: 3", r"unknown key qqqqqq; --help lists the keys"),
        ("1: 2", "unknown key 1"),
        ("run: {1: 2}", r"unknown key run\.1"),
        ("model: {RENAMED: {}}", r"unknown key model\.RENAMED"),
        ("run: {updates: 1.5}", r"wrong type for run\.updates: 1\.5 is no int"),
        ("run: {updates: yes}", r"wrong type for run\.updates: 'yes' is no int"),
        ("run: {updates: true}", r"wrong type for run\.updates: True is no int"),
        ("run: {updates: [1]}", r"wrong type for run\.updates: \[1\] is no int"),
        ("run: {updates: {a: 1}}", r"wrong type for run\.updates: \{'a': 1\} is no int"),
        ("run: {updates: }", r"wrong type for run\.updates: None is no int"),
        ("run: {compile: 1}", r"wrong type for run\.compile: 1 is no bool"),
        ("run: {out: [a]}", r"wrong type for run\.out: \['a'\] is no str"),
        ("run: {out: true}", r"wrong type for run\.out: True is no str"),
        ("optimiser: {lr: fast}", r"wrong type for optimiser\.lr: 'fast' is no float"),
        ("previews: red heart", r"wrong type for previews: 'red heart' is no list\[str\]"),
        ("previews: [[red]]", r"wrong type for previews: \[\['red'\]\] is no list\[str\]"),
        ("model: {pattern_options: 3}", r"wrong type for model\.pattern_options: 3 is no dict"),
        ("run: 3", r"wrong type for run: 3 is no mapping"),
        ("data: 3", r"wrong type for data: 3 is no mapping"),
        ("data: {augment: none}", r"wrong type for data\.augment: 'none' is no mapping"),
        ("base: 3", "base is 3"),
        ("[run]", "must be a mapping"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_that_names_file_and_key(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_config(TrainDALLE, "", ["--config", str(path)])
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_may_have_another_source_than_its_base(tmp_path: Path) -> None:
    """What the base says of its own source goes with that source."""
    base = Path(__file__).parents[1] / "configs/dalle/emoji.yaml"
    lines = f"base: {base}\ndata: {{source: folder, path: mine}}\n"
    (tmp_path / "own.yaml").write_text(lines)
    config = load_config(TrainDALLE, "", ["--config", str(tmp_path / "own.yaml")])
    assert type(config.data).__name__ == "FolderConfig"
    assert vars(config.data)["path"] == "mine"
    assert vars(config.data)["held_out_path"] == ""
    assert config.data.augment.colour == 0.1
    assert data_of(tmp_path / "own.yaml") == config.data


def test_a_mistake_on_the_command_line_is_not_blamed_on_the_file() -> None:
    config = ["--config", str(Path(__file__).parents[1] / "configs/dalle/emoji.yaml")]
    with pytest.raises(UserError, match=r"^command line: unknown key model.dpeth; did you mean"):
        load_config(TrainDALLE, "", [*config, "model.dpeth=3"])
    with pytest.raises(UserError, match=r"^command line: wrong type for model.depth: 'six'"):
        load_config(TrainDALLE, "", [*config, "model.depth=six"])
    assert load_config(TrainDALLE, "", [*config, "run.updates=2e3"]).run.updates == 2000
