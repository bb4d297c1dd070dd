"""The commands that the README tells people to run."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import classify
import sample
import search
from train_clip import TrainDualEncoder
from train_dalle import TrainDALLE
from train_dvae import TrainDVAE
from training.config import load_config

ROOT = Path(__file__).parents[1]
SCHEMAS = {
    "train_dvae.py": TrainDVAE,
    "train_dalle.py": TrainDALLE,
    "train_clip.py": TrainDualEncoder,
}


def commands(start: str) -> list[list[str]]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [
        line
        for block in re.findall(r"```bash\n(.*?)```", text, re.S)
        for line in block.splitlines()
    ]
    return [
        words[len(start.split()) :]
        for line in lines
        if (words := shlex.split(line, comments=True)) and line.startswith(start)
    ]


@pytest.mark.parametrize("script", SCHEMAS)
def test_training_commands_are_accepted(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = commands(f"python {script}")
    assert found
    for arguments in found:
        load_config(SCHEMAS[script], "", arguments)


def test_sample_commands_run(
    tmp_path: Path, run_script: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    found = [
        arguments
        for arguments in commands("python sample.py")
        if "--model" not in arguments or "models/" in " ".join(arguments)
    ]
    assert len(found) >= 2
    for arguments in found:
        if not any(word.startswith("runs/") for word in arguments) and "--help" not in arguments:
            status, _, error = run_script(sample.main, *arguments, "--out", tmp_path)
            assert status == 0, error
    assert len(list(tmp_path.glob("*/grid.png"))) >= 2


def test_the_python_that_it_shows_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    monkeypatch.chdir(tmp_path)
    code = code.replace('"models/', f'"{ROOT}/models/').replace("candidates=16", "candidates=2")
    names: dict[str, Any] = {}
    exec(code, names)
    assert (tmp_path / "heart.png").exists()
    assert 0 <= int(names["best"]) < len(names["drawn"].pictures) == 4


def test_its_rank_and_search_commands_run(
    tmp_path: Path,
    picture_folder: Path,
    run_script: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    for arguments in commands("python classify.py"):
        assert run_script(classify.main, *arguments)[0] == 0
    (picture_folder / "1.png").write_bytes((picture_folder / "00.png").read_bytes())
    places = {"my_pictures": picture_folder, "my.index": tmp_path / "index", "out/": tmp_path}
    found = commands("python search.py")
    assert len(found) == 3
    for arguments in found:
        for name, place in places.items():
            arguments = [word.replace(name, str(place)) for word in arguments]
        status, _, error = run_script(search.main, *arguments)
        assert status == 0, error


@pytest.mark.slow
def test_corpus_commands_run(tmp_path: Path) -> None:
    ((out, folder, count, number),) = commands("python -m corpora.shapes")
    assert (out, count) == ("--out", "--count")
    assert int(number) > 0
    arguments = [sys.executable, "-m", "corpora.shapes", out, str(tmp_path / folder), count, "20"]
    subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True)
    assert len(list((tmp_path / folder).glob("*.png"))) >= 20


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="make would first install everything")
def test_make_sample_draws_and_says_where(tmp_path: Path) -> None:
    command = ["make", "sample", 'TEXT=it\'s a "red" heart', f"OUT={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (folder,) = tmp_path.iterdir()
    assert str(folder) in done.stdout
    assert (folder / "grid.png").exists()


@pytest.mark.slow
def test_scripts_end_with_status_2_and_one_line(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "train_dvae.py",
        f"data.path={tmp_path}",
        f"run.out={tmp_path / 'r'}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(tmp_path) in done.stderr


def test_every_package_is_installed_by_name() -> None:
    """Packages are listed by hand: one left out would be missing from an installation."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in ROOT.glob("[a-z]*/**/__init__.py")
        if "site-packages" not in path.parts
    }
    assert found == set(project["tool"]["setuptools"]["packages"])
