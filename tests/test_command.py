"""The console command `dalle`, in the checkout and from a built wheel elsewhere."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle_command.__main__ import SCRIPTS, TRAININGS, main

ROOT = Path(__file__).parents[1]
Script = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_it_names_every_script_of_the_checkout(run_script: Script) -> None:
    status, out, _ = run_script(main)
    assert status == 0
    scripts = {path.stem for path in ROOT.glob("*.py")} - {"setup"}
    assert scripts == {*SCRIPTS, *(f"train_{kind}" for kind in TRAININGS)}
    for name in (*SCRIPTS, *(f"train {kind}" for kind in TRAININGS)):
        assert f"  {name} " in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["draw"], "dalle draw: there is no such command; there are sample, guide"),
        (["train"], "dalle train : write one of dvae, dalle, clip, prior, decoder behind train"),
        (["train", "gpt"], "dalle train gpt: write one of"),
    ],
)
def test_what_is_no_command_is_named(words: list[str], says: str, run_script: Script) -> None:
    status, _, error = run_script(main, *words)
    assert status == 2
    assert says in error
    assert error.count("\n") == 1


def test_a_script_answers_as_itself(toy: Path, tmp_path: Path, run_script: Script) -> None:
    words = ["--text", "a red star", "--model", toy, "--candidates", "2", "--out", tmp_path]
    status, _, error = run_script(main, "sample", *words)
    assert status == 0, error
    assert (tmp_path / "a-red-star/samples.json").is_file()
    status, _, error = run_script(main, "train", "dvae", "run.updates=none")
    assert status == 2
    assert "run.updates" in error


@pytest.mark.slow
def test_a_wheel_draws_in_another_folder(tmp_path: Path) -> None:
    source, installed, elsewhere = (tmp_path / name for name in ("source", "site", "elsewhere"))
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    for name in listed.splitlines():  # a build leaves files behind
        if not name.startswith(("models/emoji", "docs/", "tests/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        *("dalle", "dalle_base", "dalle_command", "dalle_evaluation", "dalle_guided"),
        *("dalle_published", "dalle_web", "dual_encoder", "dvae", "unclip", "dalle_checkout"),
        next(name for name in (n.split("/")[0] for n in names) if name.endswith(".dist-info")),
    }
    subprocess.run([*pip, "install", "--no-deps", "--target", installed, wheel], check=True)
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def dalle(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dalle_command", *words],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    dalle("sample", "--text", "a red circle", "--model", "models/shapes", "--candidates", "2")
    record = json.loads((elsewhere / "out/a-red-circle/samples.json").read_text())
    assert len(record["candidates"]) == 2
    assert (elsewhere / "out/a-red-circle/grid.png").is_file()
    assert "run.updates" in dalle("train", "dvae", "--config", "configs/dvae/shapes.yaml", "--help")
    where = subprocess.run(
        [sys.executable, "-c", "import dalle, dalle_base; print(dalle.__file__)"],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
    ).stdout
    assert where.startswith(str(installed)), where
