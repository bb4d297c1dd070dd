"""python -m dalle_base.data.inspect: what a run will see of its data."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dalle_base.common.errors import UserError
from dalle_base.common.images import GAP
from dalle_base.data.caption_lengths import Lengths, caption_lengths, quantiles, spread
from dalle_base.data.inspect.__main__ import main
from dalle_base.data.inspect.captions import caption_report
from dalle_base.data.inspect.images import COLUMNS, contact_sheet, passed_over
from dalle_base.data.inspect.reading import Reading, read_run
from dalle_base.data.sources.base import Record, Subset
from dalle_base.data.sources.folder import FolderConfig
from dalle_base.data.text_training import train_text

Script = Callable[..., tuple[int, str, str]]
CONFIGS = Path(__file__).parents[1] / "configs"


class Records:
    """Records in memory, as a source."""

    def __init__(self, *captions: str | None, images: list[Image.Image] | None = None) -> None:
        image = Image.new("RGB", (20, 20))
        self.records = [
            Record(f"{number}.png", images[number] if images else image, caption)
            for number, caption in enumerate(captions)
        ]

    def __len__(self) -> int:
        return len(self.records)

    def record(self, index: int) -> Record:
        return self.records[index]

    def has_caption(self, index: int) -> bool:
        return bool((self.records[index].caption or "").strip())


def reading(text_length: int = 3, text_file: Path | None = None, image_size: int = 16) -> Reading:
    return Reading("dalle", FolderConfig(), image_size, text_length, 300, text_file)


@pytest.mark.parametrize("script", ["dvae", "dalle", "clip"])
def test_it_reports_on_the_configs_of_all_three_scripts(
    script: str, image_folder: Path, tmp_path: Path, run_script: Script
) -> None:
    (image_folder / "12.png").write_bytes(b"no image")
    out = tmp_path / "sheet.png"
    config = str(CONFIGS / script / "folder.yaml")
    overrides = (f"data.path={image_folder}", "data.held_out_share=0.2")
    status, printed, error = run_script(main, config, *overrides, "--out", out, "--images", "3")
    assert status == 0, error
    lines = printed.splitlines()
    held_out = int(lines[0].split(", ")[1].split()[0])
    assert lines[0].startswith(f"images: {13 - held_out} to train on, {held_out} held out")
    assert "opened: 13 images, of which 1 cannot be read" in lines
    assert "12.png" in printed
    if script == "dvae":
        assert "this run reads none" in printed
    else:
        assert "captions are cut at 32 tokens" in printed
        assert "tokens of a caption: shortest" in printed
    with Image.open(out) as sheet:
        assert sheet.width == GAP + COLUMNS * (128 + GAP)
    assert str(out) in lines[-1]


def test_lines_on_captions_say_how_many_are_cut_empty_and_repeated(tmp_path: Path) -> None:
    text = tmp_path / "text.json"
    train_text(["aa bb cc"] * 9, 262).save(text)
    captions = ["aa bb", "AA  bb", "aa bb cc aa", None, " ", "aa\x07"]
    train, held_out = Records(*captions), Records("aa ž", "bb")
    lines = list(caption_report(train, held_out, reading(3, text)))
    text_of = "\n".join(lines)
    assert "2 of 6 training images have none" in text_of
    assert "shortest 2, median 2, 90 % 4" in text_of
    assert (
        "1 of 4 captions are cut at 3 tokens (model.text_length=4 reads all of them whole)" in lines
    )
    assert f"text encoding: 262 tokens ({text})" in lines
    assert 'repeated captions: 2 of 5 are not the only ones ("aa bb" 2 times)' in lines
    assert "U+0007 in 1" in text_of
    assert "characters only in held-out captions: ž (U+017E), in 1 of 2" in lines


def test_what_cannot_be_wrong_is_not_mentioned() -> None:
    lines = list(caption_report(Records("one", "two"), Records("on"), reading(9)))
    text = "\n".join(lines)
    for word in ("repeated", "printed", "only in", "several"):
        assert word not in text
    assert "0 of 2 captions are cut at 9 tokens" in lines


def test_joiners_and_emoji_are_no_odd_characters() -> None:
    family = "family: \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f"
    lines = list(caption_report(Records(family), Records(family), reading(99)))
    assert "printed" not in "\n".join(lines)


class Several(Record):
    """An image with two captions."""

    other_captions = ("aa bb aa bb",)


def test_several_captions_of_an_image_are_all_counted() -> None:
    text_tokenizer = train_text(["aa bb"] * 9, 260)
    source = Records("aa", "bb")
    source.records[0] = Several("0.png", Image.new("RGB", (20, 20)), "aa")
    found = caption_lengths(source, text_tokenizer)
    assert found.tokens == [len(text_tokenizer.tokens(t)) for t in ("aa", "aa bb aa bb", "bb")]
    lines = list(caption_report(source, Records("aa"), reading(9)))
    assert "several captions: 1 images have more than one, up to 2" in lines


def test_of_many_captions_some_are_looked_at() -> None:
    records, total = spread(Records(*["x"] * 100), 7)
    assert len(records) <= 7
    assert total == 100
    assert Lengths([5, 5], 2, 100).line(5).startswith("0 of 2 captions looked at are cut")
    assert Lengths([5, 6], 2, 2).line(5, "k", 2).endswith("(k=8 reads all of them whole)")
    assert quantiles([5, 1, 3], [0.0, 0.5, 1.0]) == [1, 3, 5]


def test_a_stream_is_judged_by_its_sample() -> None:
    stream = SimpleNamespace(sample=lambda: Records("aa bb", "cc"))
    records, total = spread(stream)  # type: ignore[arg-type]
    assert ([record.caption for record in records], total) == (["aa bb", "cc"], 0)


def test_what_a_source_passed_over_is_found_inside_others() -> None:
    inner = SimpleNamespace(passed_over="2 hidden files")
    other = SimpleNamespace(passed_over="3 without a caption")
    joined = SimpleNamespace(sources=[Subset(inner, []), other])  # type: ignore[arg-type]
    assert sorted(passed_over(joined)) == ["2 hidden files", "3 without a caption"]
    assert passed_over(Records("a")) == []


def test_the_sheet_shows_images_as_they_are_and_augmented() -> None:
    halves = np.zeros((40, 40, 3), np.uint8)
    halves[:, 20:] = 255
    config = reading()
    config.data.augment.flip = "all"
    sheet = contact_sheet(Records("halves", images=[Image.fromarray(halves)]), config, 1)
    side = 96  # six times as large
    top = sheet.height - GAP - 14 - side + side // 2  # half way down the row, above its label
    left = [GAP + number * (side + GAP) + side // 8 for number in range(COLUMNS)]
    seen = [sheet.getpixel((x, top))[0] > 128 for x in left]  # type: ignore[index]
    assert not seen[0]
    assert 0 < sum(seen[1:]) < COLUMNS - 1  # some are mirrored, some are not
    with pytest.raises(UserError, match="for the sheet"):
        contact_sheet(broken(), config, 1)


def broken() -> Records:
    source = Records("a")
    source.records = [source.records[0]._replace(image=b"no image")]
    return source


def test_the_script_is_told_by_folder_keys_or_option(tmp_path: Path) -> None:
    assert read_run(None, str(CONFIGS / "clip/folder.yaml"), []).text_length == 32
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: {vision: {width: 24}, text_length: 12}")
    read = read_run(None, str(mine), ["run.out=" + str(tmp_path)])
    assert (read.script, read.text_length) == ("clip", 10)
    mine.write_text("codes: {variants: 3}\ntokenizer: models/emoji/tokenizer")
    read = read_run(None, str(mine), ["model.text_length=7"])
    assert (read.script, read.text_length, read.image_size) == ("dalle", 7, 64)
    mine.write_text("model: {grid: 32}")
    assert read_run(None, str(mine), []).script == "dvae"
    mine.write_text("data: {path: x}")
    assert read_run("clip", str(mine), []).script == "clip"
    mine.write_text("model: {}")
    with pytest.raises(UserError, match="--script"):
        read_run(None, str(mine), [])
    mine.write_text("nonsense: 3")
    with pytest.raises(UserError, match="no config of a script"):
        read_run(None, str(mine), [])
    with pytest.raises(UserError, match="name a config"):
        read_run(None, None, [])


def test_the_text_encoding_is_the_runs_own_or_that_of_init(tmp_path: Path) -> None:
    config = str(CONFIGS / "dalle/folder.yaml")
    assert read_run(None, config, [f"run.out={tmp_path}"]).text_file is None
    (tmp_path / "text.json").write_text("{}")
    assert read_run(None, config, [f"run.out={tmp_path}"]).text_file == tmp_path / "text.json"
    init = read_run(None, config, [f"run.out={tmp_path}", "init=models/emoji"])
    assert init.text_file == Path("models/emoji/text.json")
    assert init.text_length == 16


def test_images_without_captions_are_an_error_as_in_training(
    image_folder: Path, tmp_path: Path, run_script: Script
) -> None:
    (image_folder / "metadata.csv").unlink()
    config = str(CONFIGS / "dalle/folder.yaml")
    arguments = (config, f"data.path={image_folder}", "--out", tmp_path / "s.png")
    status, _, error = run_script(main, *arguments)
    assert status == 2
    assert "none of the" in error
    assert error.count("\n") == 1
