"""How the house is built: short functions, few parameters, a short way from caption to image."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    *("dalle", "dalle_base", "dalle_evaluation", "dalle_guided", "dalle_published", "dalle_web"),
    *("dual_encoder", "dvae", "unclip", "corpora", "experiments", "benchmarks"),
)
SCRIPTS = (
    *("train_dvae", "train_dalle", "train_clip", "train_prior", "train_decoder"),
    *("sample", "guide", "classify", "search", "evaluate", "app"),
)
MOST_LINES, MOST_PARAMETERS = 60, 7
ROUTE_FILES, ROUTE_LINES = 12, 1700
SLOW_TO_IMPORT = ("torch._dynamo", "torch._inductor", "datasets", "accelerate", "matplotlib")
"""Modules that sampling has no use for."""
ONLY_AFTER_THE_ARGUMENTS = ("torch", "numpy", "PIL", "tokenizers", *SLOW_TO_IMPORT)
"""Modules that reading arguments has no use for."""

FILES = [
    *(ROOT / f"{name}.py" for name in SCRIPTS),
    *(path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))),
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short_and_take_few_parameters(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef):
            continue
        lines = (node.end_lineno or 0) - node.lineno + 1
        assert lines <= MOST_LINES, f"{node.name} has {lines} lines"
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        taken = [name for name in names if name not in ("self", "cls")]
        if not node.name.startswith("_") or node.name == "__init__":
            assert len(taken) <= MOST_PARAMETERS, f"{node.name} takes {', '.join(taken)}"


SAMPLED = """
import sys
from pathlib import Path

root = Path.cwd()
arguments = ["sample.py", "--text", "a red heart", "--candidates", "1", "--out", OUT]
arguments += ["--model", "models/shapes"]  # the paper's own chain
sys.argv = [*arguments, "--no-rerank"]
import sample

called, route = set(), sample.sample


def watch(frame, event, _):
    if event == "call":
        called.add(frame.f_code.co_filename)


def watched(*arguments):
    sys.setprofile(watch)
    try:
        return route(*arguments)
    finally:
        sys.setprofile(None)


sample.sample = watched
sample.main()
sample.sample = route
sys.argv = arguments
sample.main()
files = (path.relative_to(root) for path in map(Path, called) if path.is_relative_to(root))
print(*sorted(str(path) for path in files if ".venv" not in path.parts))
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """The files whose code runs between the loaded models and the written images, without a
    reranker, and the modules that a process has imported which has sampled with one."""
    code = SAMPLED.replace("OUT", repr(str(tmp_path_factory.mktemp("sampled"))))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    files, modules = done.stdout.splitlines()[-2:]
    return set(files.split()), set(modules.split())


def test_the_way_from_a_caption_to_an_image_is_short(sampled: tuple[set[str], set[str]]) -> None:
    files, _ = sampled
    assert "sample.py" in files
    assert "dvae/networks.py" in files
    lines = {name: len((ROOT / name).read_text("utf-8").splitlines()) for name in files}
    assert len(lines) <= ROUTE_FILES, lines
    assert sum(lines.values()) <= ROUTE_LINES, lines


def test_sampling_imports_nothing_that_it_has_no_use_for(
    sampled: tuple[set[str], set[str]],
) -> None:
    _, found = sampled
    assert "torch" in found
    assert found.isdisjoint(SLOW_TO_IMPORT)


def imported(code: str) -> set[str]:
    """The modules that a process has imported after running some code."""
    code += "\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("script", SCRIPTS)
def test_arguments_are_read_before_torch_is_imported(script: str) -> None:
    code = f"""
import sys
sys.argv = ["{script}.py", "--help"]
import {script}
try:
    {script}.main()
except SystemExit:
    pass
"""
    found = imported(code)
    assert script in found
    assert found.isdisjoint(ONLY_AFTER_THE_ARGUMENTS)


def test_mistakes_are_answered_before_torch_is_imported() -> None:
    for script, arguments in (
        ("train_dalle", ["model.dpeth=3"]),
        ("train_dvae", ["optimiser.name=sdg"]),
        ("train_clip", ["data.source=foldre"]),
        ("sample", ["--text", "a heart", "--temperature", "0"]),
        ("sample", ["--text", "a heart", "--device", "gpu"]),
        ("search", ["find", "--index", "x"]),
    ):
        found = imported(f"""
import sys
sys.argv = ["{script}.py", *{arguments!r}]
import {script}
try:
    assert {script}.main() == 2
except SystemExit as stop:
    assert stop.code == 2
""")
        assert found.isdisjoint(ONLY_AFTER_THE_ARGUMENTS), (script, arguments)
