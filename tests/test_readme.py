"""What README.md and docs/ tell people to run, and what an installation holds."""

import argparse
import importlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tiny_runs import DVAE, SHARED

import classify
import evaluate
import sample
import search
from dalle.request import parse_requests
from dalle_base.common.planning import take_plan
from dalle_base.training.changes import load_run_config
from dalle_command import __main__ as console
from dalle_guided.request import parse_guide_request
from dalle_web.request import parse_app_request
from train_clip import TrainDualEncoder
from train_dalle import TrainDALLE
from train_decoder import TrainDecoder
from train_dvae import TrainDVAE
from train_prior import TrainPrior

Script = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [
    *(README, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/RESULTS.md"),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "models").glob("*/README.md")),
]
PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "train_dvae.py": lambda words: load_run_config(TrainDVAE, "", take_plan(words)[1]),
    "train_dalle.py": lambda words: load_run_config(TrainDALLE, "", take_plan(words)[1]),
    "train_clip.py": lambda words: load_run_config(TrainDualEncoder, "", take_plan(words)[1]),
    "train_prior.py": lambda words: load_run_config(TrainPrior, "", take_plan(words)[1]),
    "train_decoder.py": lambda words: load_run_config(TrainDecoder, "", take_plan(words)[1]),
    "sample.py": lambda words: parse_requests(None, words),
    "app.py": lambda words: parse_app_request(None, words),
    "guide.py": lambda words: parse_guide_request(None, words),
    "classify.py": classify.parse_arguments,
    "search.py": search.parse_arguments,
    "evaluate.py": evaluate.parse_arguments,
}
OTHERS = ("pip", "pytest", "venv")
"""Modules that are not ours."""
CHECKOUT = "dalle_checkout"
"""What an installation has of the checkout besides packages."""
INSTALLED = (
    *("dalle", "dalle_base", "dalle_command", "dalle_evaluation", "dalle_guided"),
    "dalle_published",
    *("dalle_web", "dual_encoder", "dvae", "unclip"),
)


class Command(NamedTuple):
    """A command line as a document has it."""

    document: str
    line: str

    @property
    def words(self) -> list[str]:
        """Its words behind `python`."""
        return shlex.split(self.line, comments=True)[1:]


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a document in one language."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.S)


def commands(start: str = "python ", documents: list[Path] = DOCUMENTS) -> list[Command]:
    """The commands in code blocks, and those that stand in the text."""
    found = []
    for path in documents:
        name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        lines = [line for block in blocks(path, "bash") for line in block.splitlines()]
        lines += re.findall(r"`(python [^`]*)`", text)
        found += [Command(name, line) for line in lines if line.startswith(start)]
    return [command for command in found if command.words[0] != "-c"]  # Python's own


def arguments_of(start: str) -> list[list[str]]:
    """What the README's commands with this start give their script."""
    return [c.words[len(start.split()) - 1 :] for c in commands(start, [README])]


def test_commands_are_found() -> None:
    found = [command.line for command in commands(documents=[README])]
    for script in PARSERS.keys() - {"evaluate.py"}:
        assert any(line.startswith(f"python {script} ") for line in found), script


class Accepted(Exception):  # noqa: N818
    """Arguments that argparse had nothing against."""


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.line)
def test_every_command_is_accepted(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    first, *arguments = command.words
    if first == "-m":
        module, *arguments = arguments
        if module not in OTHERS:
            accept_module(module, arguments, monkeypatch)
        return
    assert (ROOT / first).is_file()
    if "--help" not in arguments:
        PARSERS[first](arguments)
        return
    with pytest.raises(SystemExit) as stop:
        PARSERS[first](arguments)
    assert stop.value.code == 0


def accept_module(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a module's `main` and end it as soon as its arguments are read."""
    spec = importlib.util.find_spec(module)
    assert spec, f"no module {module}"
    name = f"{module}.__main__" if spec.submodule_search_locations else module
    assert importlib.util.find_spec(name)
    if not arguments:  # as the text names it
        return

    def accepting(parse: Callable[..., Any]) -> Callable[..., None]:
        def accept(*given: Any) -> None:
            parse(*given)
            raise Accepted

        return accept

    imported = importlib.import_module(name)
    parser = argparse.ArgumentParser
    monkeypatch.setattr(parser, "parse_args", accepting(parser.parse_args))
    if hasattr(imported, "load_config"):  # it reads a config, as the scripts that train do
        monkeypatch.setattr(imported, "load_config", accepting(imported.load_config))
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(Accepted):
        imported.main()


OPTIONS = re.findall(
    r"`(--[^`]*)`",
    "\n".join(
        line.split("|")[1]
        for line in (ROOT / "docs/sampling.md").read_text("utf-8").splitlines()
        if line.startswith("| `--")
    ),
)


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_sampling_are_accepted(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        parse_requests(None, ["--text", "a", *shlex.split(option)])
    except SystemExit:  # the document names the option without a value
        assert " " not in option
        assert f"argument {option}: expected one argument" in capsys.readouterr().err


def slow_but_for_a_few(arguments: list[str]) -> Any:
    """The other options are accepted by the test of all commands, and tried by test_sample.py."""
    fast = "--help" in arguments or not {"--candidates", "--seed"} & set(arguments)
    return pytest.param(
        arguments, marks=[] if fast else [pytest.mark.slow], id=shlex.join(arguments)
    )


SAMPLED = [a for a in arguments_of("python sample.py") if "runs/" not in " ".join(a)]


@pytest.mark.parametrize("arguments", [*map(slow_but_for_a_few, SAMPLED)])
def test_sample_commands_run(
    arguments: list[str], tmp_path: Path, run_script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    status, _, error = run_script(sample.main, *arguments, "--out", tmp_path)
    assert status == 0, error
    assert "--help" in arguments or list(tmp_path.glob("*/grid.png"))


def test_there_are_sample_commands_to_run() -> None:
    assert len([a for a in SAMPLED if "--candidates" not in a and "--help" not in a]) >= 2


PYTHON = [
    pytest.param(code, id=f"{path.name}-{number}")
    for path in (README, *sorted((ROOT / "docs").glob("*.md")))
    for number, code in enumerate(blocks(path, "python"))
]


@pytest.mark.parametrize("code", PYTHON)
def test_the_python_that_is_shown_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = code.replace('"models/', f'"{ROOT}/models/')
    code = re.sub(r"candidates=\d+", "candidates=2", code)
    code = re.sub(r"\bsteps=\d+", "steps=2", code)
    names: dict[str, Any] = {}
    exec(code, names)
    if "drawing" in names:
        assert [measured.step for measured in names["drawing"].way] == [0, 2]
        return
    if "samples" not in names:
        assert names["model"].generate("a red circle").images
        return
    assert len(names["samples"].images) == 4
    if "best" in names:
        assert 0 <= int(names["best"]) < 4
        assert (tmp_path / "heart.png").exists()


def test_the_readme_shows_the_best_image() -> None:
    (code,) = blocks(README, "python")
    assert "best = " in code
    assert "heart.png" in code


def table(text: str) -> list[tuple[str, float]]:
    """The lines of classify.py's table: path and labels, and the first percentage."""
    rows = []
    for line in text.splitlines():
        percentages = re.findall(r"([\d.]+)%", line)
        if percentages:
            words = re.sub(r"[\d.]+%", "", line).split()
            rows.append((" ".join(words), float(percentages[0])))
    return rows


def test_classify_prints_what_the_readme_shows(
    run_script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (arguments,) = arguments_of("python classify.py")
    status, printed, error = run_script(classify.main, *arguments, "--device", "cpu")
    assert status == 0, error
    shown = [row for block in blocks(README, "text") for row in table(block)]
    found = table(printed)
    assert len(shown) >= 2
    assert [names for names, _ in found] == [names for names, _ in shown]
    assert [value for _, value in found] == pytest.approx([v for _, v in shown], abs=1)


def test_search_commands_run(
    tmp_path: Path, image_folder: Path, run_script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (image_folder / "1.png").write_bytes((image_folder / "00.png").read_bytes())
    places = {"my_pictures": image_folder, "my.index": tmp_path / "index", "out/": tmp_path}
    found = arguments_of("python search.py")
    assert len(found) == 3
    for arguments in found:
        for name, place in places.items():
            arguments = [word.replace(name, str(place)) for word in arguments]
        status, _, error = run_script(search.main, *arguments)
        assert status == 0, error


@pytest.mark.slow
def test_corpus_commands_run(tmp_path: Path) -> None:
    found = commands("python -m corpora.shapes --")
    assert found
    for command in found:
        _, module, out, folder, count, number = command.words
        assert (out, count) == ("--out", "--count")
        assert int(number) > 0
        place = tmp_path / command.document / folder
        words = [sys.executable, "-m", module, out, str(place), count, "20"]
        subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
        assert len(list(place.glob("*.png"))) >= 20


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="make would first install everything")
def test_make_sample_samples_and_says_where(tmp_path: Path) -> None:
    command = ["make", "sample", 'TEXT=it\'s a "red" heart', f"OUT={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (folder,) = tmp_path.iterdir()
    assert str(folder) in done.stdout
    assert (folder / "grid.png").exists()


@pytest.mark.slow
def test_scripts_end_with_status_2_and_one_line(tmp_path: Path) -> None:
    overrides = [f"data.path={tmp_path}", f"run.out={tmp_path / 'r'}"]
    command = [sys.executable, "train_dvae.py", *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(tmp_path) in done.stderr


LEFT_OUT = shutil.ignore_patterns(
    *(".*", "__pycache__", "*.egg-info", "build", "data", "out", "runs", "docs")
)
"""What a copy of the tree does without: nothing of it is installed."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, as `pip install .` builds it."""
    tree = tmp_path_factory.mktemp("wheel") / "tree"
    # `data` is also the name of a package.
    shutil.copytree(ROOT, tree, ignore=lambda at, names: _left_out(Path(at), names))
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    command = [sys.executable, "-c", build]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = tree.parent.glob("*.whl")
    return path


def _left_out(folder: Path, names: list[str]) -> set[str]:
    found = LEFT_OUT(str(folder), names)
    return found if folder == ROOT else found - {"data"}


@pytest.mark.slow
def test_an_installation_puts_our_packages_and_nothing_else_on_the_path(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    (about,) = [name for name in tops if name.endswith(".dist-info")]
    assert tops == {*INSTALLED, CHECKOUT, about}
    assert about.startswith("dalle_from_scratch-")
    paths = [path for top in INSTALLED for path in (ROOT / top).rglob("*.py")]
    modules = {path.relative_to(ROOT).as_posix() for path in paths}
    assert len([module for module in modules if module.endswith("__init__.py")]) > 10
    scripts = {f"{CHECKOUT}/{path.name}" for path in ROOT.glob("*.py")} - {f"{CHECKOUT}/setup.py"}
    assert modules | scripts == {name for name in names if name.endswith(".py")}
    for folder in {module.rpartition("/")[0] for module in modules}:
        assert f"{folder}/__init__.py" in modules, f"{folder} is no package"
    assert f"{CHECKOUT}/configs/sizes.yaml" in names
    assert f"{CHECKOUT}/models/shapes/model.safetensors" in names
    assert not any("emoji" in name for name in names if "models" in name)


@pytest.mark.slow
def test_the_command_does_what_the_scripts_do(
    wheel: Path, tmp_path: Path, image_folder: Path
) -> None:
    """Installed, from another folder."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")

    def dalle(*words: str) -> subprocess.CompletedProcess[str]:
        code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); "
        code += "from dalle_command.__main__ import main; raise SystemExit(main())"
        command = [sys.executable, "-I", "-c", code, *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = dalle(
        "sample", "--text", "a red circle", "--model", "models/shapes", "--candidates", "1"
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out/a-red-circle/samples.json").read_text())
    again = record["candidates"][0]["command"]
    assert again.startswith("dalle sample --text 'a red circle' --model models/shapes")
    done = dalle("train", "dvae", *DVAE, *SHARED, f"data.path={image_folder}", "run.out=runs/a")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/a/tokenizer/model.safetensors").is_file()
    assert "dalle train dvae model" in (tmp_path / "runs/a/README.md").read_text("utf-8")
    missing = dalle("sample", "--text", "a")
    assert missing.returncode == 2
    assert "models/emoji; an installation has models/shapes alone" in missing.stderr
    assert "usage: dalle classify" in dalle("classify", "--help").stdout
    words = ["size=small", "tokenizer=models/shapes/tokenizer", "data.path=nowhere"]
    done = dalle("train", "dalle", *words)  # presets and the small model are there
    assert done.returncode == 2
    assert "nowhere" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["paint"], "error: dalle paint: there is no such command; there are sample, guide"),
        (["train"], "error: dalle train : write one of dvae, dalle, clip, prior, decoder"),
        (["train", "gan"], "error: dalle train gan: write one of dvae"),
    ],
)
def test_commands_that_are_none_are_named(
    words: list[str], says: str, run_script: Callable[..., tuple[int, str, str]]
) -> None:
    status, _, error = run_script(console.main, *words)
    assert status == 2
    assert error.startswith(says)
    assert len(error.splitlines()) == 1


def test_the_command_says_what_there_is(run_script: Callable[..., tuple[int, str, str]]) -> None:
    for words in ([], ["--help"]):
        status, printed, _ = run_script(console.main, *words)
        assert status == 0
        for script in (*console.SCRIPTS, *(f"train_{kind}" for kind in console.TRAININGS)):
            assert (ROOT / f"{script}.py").is_file()
            assert script.replace("_", " ") in printed
    assert run_script(console.main, "--version")[1].startswith("dalle-from-scratch ")


@pytest.mark.slow
def test_what_is_installed_works_in_another_folder(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(tmp_path / "site")!r})
import dalle, dvae, dual_encoder
import dalle.checkpoint, dalle.record, dalle.prompt, dalle_base.data.shapes
import dalle_evaluation.scores, dalle_published.clip, dalle_published.dvae
import dalle_base.training.trainer, dual_encoder.index
model = dalle.checkpoint.load_text_to_image({str(ROOT / "models/shapes")!r})
print(len(model.generate("a red circle").images))
for name, module in sorted(sys.modules.items()):
    if name.split(".")[0] in {(*INSTALLED, "corpora", "experiments", "benchmarks")!r}:
        print(module.__file__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    count, *files = done.stdout.splitlines()
    assert count == "1"
    assert len(files) > 30
    assert all(Path(file).is_relative_to(tmp_path / "site") for file in files)
