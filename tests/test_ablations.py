"""Ablations: what a file may say, how results are compared, how cells are worked off."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from dalle_base.common.config import from_layers
from dalle_base.common.errors import UserError
from experiments import run
from experiments.ablation import workers
from experiments.ablation.budget import seconds_per_update, updates_for
from experiments.ablation.cells import DONE, FAILED, Cell, cells_of, check_variants
from experiments.ablation.config import Ablation, Budget, flags, variants
from experiments.ablation.results import BETTER, OPEN, WORSE, compare, rows
from experiments.ablation.tables import csv_cells, csv_table, markdown
from experiments.ablation.work import Heard, numbers

SHIPPED = sorted(Path("configs/ablations").glob("*.yaml"))
BASE = {
    "config": "configs/dvae/shapes.yaml",
    "script": "train_dvae",
    "variants": {"base": {}, "wide": {"model.network.width": 8}},
    "budget": {"updates": 2},
    "figures": {"psnr": "higher"},
}


def made(**changes: object) -> Ablation:
    return from_layers(Ablation, [BASE | changes], "x.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_ablations_are_what_their_scripts_take(path: Path) -> None:
    ablation = run.read_ablation(path)
    check_variants(ablation, variants(ablation))
    check_variants(run.miniature(ablation), variants(run.miniature(ablation)))
    assert ablation.question.endswith("?")
    assert ablation.script == "evaluate" or len(ablation.seeds) >= 3


def test_a_sweep_of_two_is_a_grid_behind_the_base() -> None:
    ablation = made(
        sweep={"optimiser.lr": [1e-3, 2e-3], "model.codebook_size": [16, 32]},
        against="lr=0.002, codebook_size=16",
    )
    names = [variant.name for variant in variants(ablation)]
    assert names[0] == "lr=0.002, codebook_size=16"
    assert names[1:3] == ["base", "wide"]
    assert len(names) == 6
    assert variants(ablation)[0].changes == {"optimiser.lr": 2e-3, "model.codebook_size": 16}


def test_changes_are_laid_over_what_all_cells_have() -> None:
    ablation = made(
        set={"optimiser": {"lr": 1e-3}, "run.batch_size": 4},
        variants={"base": None or {}, "fast": {"optimiser": {"lr": 2e-3}}},
    )
    base, fast = variants(ablation)
    assert base.changes == {"optimiser.lr": 1e-3, "run.batch_size": 4}
    assert fast.changes == {"optimiser.lr": 2e-3, "run.batch_size": 4}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"script": "train_gan"}, "script is 'train_gan'; use one of"),
        ({"budget": {}}, "budget is empty"),
        ({"budget": {"updates": 2, "minutes": 1}}, "sets updates and minutes"),
        ({"budget": {"epochs": 2}}, "unknown key budget.epochs"),
        ({"variants": {}}, "nothing is changed"),
        ({"variants": {"a b": {}, "a-b": {}}}, "two cells would be called 'a-b' and 'a b'"),
        ({"variants": {"lr=1": {}}, "sweep": {"optimiser.lr": [1]}}, "two cells would be called"),
        ({"sweep": {"a": [1], "b": [1], "c": [1]}}, "at most two"),
        ({"sweep": {"a": []}}, "sweep.a has no values"),
        ({"seeds": [0, 0]}, "each once"),
        ({"seeds": [-1]}, "seeds"),
        ({"figures": {}}, "figures is empty"),
        ({"figures": {"psnr": "up"}}, "figures.psnr is 'up'"),
        ({"against": "nothing"}, "against is 'nothing'; use one of base, wide"),
        ({"config": ""}, "config is empty"),
        ({"script": "evaluate"}, "set model"),
    ],
)
def test_what_is_no_ablation_is_refused(changes: dict, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        made(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"variants": {"wide": {"model.widht": 8}}}, "variant 'wide': "),
        ({"variants": {"wide": {"model.widht": 8}}}, "unknown key model.widht"),
        ({"variants": {"seeded": {"run.seed": 3}}}, "which the ablation decides"),
        ({"variants": {"odd": {"optimiser.lr": "fast"}}}, "wrong type for optimiser.lr"),
        ({"config": "configs/dvae/none.yaml"}, "does not exist"),
        ({"evaluate": ["--judgement"]}, "evaluate.py: "),
        (
            {"script": "evaluate", "model": "models/shapes", "variants": {"a": {"temprature": 1}}},
            "variant 'a': evaluate.py: ",
        ),
    ],
)
def test_a_variant_that_its_script_does_not_take_is_refused(changes: dict, says: str) -> None:
    ablation = made(**changes)
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        check_variants(ablation, variants(ablation))
    assert "\n" not in str(caught.value)


def test_a_key_that_is_written_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(yaml.safe_dump(BASE) + "\nvariants: {}\n")
    with pytest.raises(UserError, match="written twice"):
        run.read_ablation(path)


def test_what_is_compared_is_the_files_own(tmp_path: Path) -> None:
    (tmp_path / "below.yaml").write_text(yaml.safe_dump(BASE | {"against": "wide"}))
    path = tmp_path / "above.yaml"
    path.write_text("base: below.yaml\nsweep: {optimiser.lr: [1.0, 2.0]}\n")
    assert [variant.name for variant in variants(run.read_ablation(path))] == ["lr=1.0", "lr=2.0"]
    path.write_text("base: below.yaml\nseeds: [4]\n")
    assert [variant.name for variant in variants(run.read_ablation(path))] == ["wide", "base"]


def test_a_variant_may_be_of_another_config() -> None:
    vqgan = {"config": "configs/dvae/vqgan.yaml", "model.codebook_size": 32}
    ablation = made(variants={"base": {}, "other": vqgan})
    configs = check_variants(ablation, variants(ablation))
    assert [configs[name].tokenizer for name in ("base", "other")] == ["dvae", "vqgan"]
    cell = cells_of(ablation, [(variants(ablation)[1], 2)], Path("out"))[0]
    assert cell.train[:2] == ["--config", "configs/dvae/vqgan.yaml"]
    assert not any(text.startswith("config=") for text in cell.train)


def test_options_of_evaluate_are_written_as_flags() -> None:
    assert flags({"top_k": 5, "judge": True}) == ["--top-k", "5", "--judge"]


@pytest.mark.parametrize(
    ("budget", "updates"),
    [
        ({"updates": 7}, 7),
        ({"images": 640}, 20),
        ({"tokens": 32 * 92 * 3}, 3),
        ({"minutes": 1}, 30),
    ],
)
def test_a_budget_buys_updates(budget: dict, updates: int) -> None:
    config = SimpleNamespace(
        run=SimpleNamespace(batch_size=16, accumulate=2),
        model=SimpleNamespace(stream=SimpleNamespace(length=92)),
        from_tokenizer=[],
    )
    assert updates_for(Budget(**budget), config, seconds=2.0) == updates


def test_a_budget_that_buys_nothing_is_refused() -> None:
    config = SimpleNamespace(run=SimpleNamespace(batch_size=16, accumulate=1))
    with pytest.raises(UserError, match=r"budget\.images is less than one update takes \(16\)"):
        updates_for(Budget(images=15), config)


def test_operations_are_those_of_matrix_products_and_grow_with_the_model() -> None:
    from dalle.config import TransformerConfig
    from experiments.ablation.budget import operations

    def config(width: int, batch: int) -> SimpleNamespace:
        model = TransformerConfig(
            *(32, 32, 8, 4, 4), depth=2, heads=2, d_model=width, head_width=width // 2
        )
        return SimpleNamespace(
            model=model, run=SimpleNamespace(batch_size=batch), from_tokenizer=[]
        )

    small, twice, wide = (operations(config(*each)) for each in ((16, 2), (16, 4), (32, 2)))
    assert twice == pytest.approx(2 * small)
    assert 2.2 * small < wide < 4 * small
    # Without heads and attention: 6 operations for each weight of the blocks and token.
    assert small > 6 * 2 * 12 * 16**2 * 2 * 23


def test_a_timing_leaves_out_the_first_updates(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    lines = [{"step": i, "seconds_per_update": 9.0 if i < 3 else 0.5 + 0.01 * i} for i in range(9)]
    log.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"psnr": 3.0}]))
    assert seconds_per_update(log) == pytest.approx(0.555)


def test_differences_are_taken_seed_by_seed() -> None:
    """Seeds that differ more than variants do: paired, the small difference is sure."""
    base = {0: {"loss": 1.0}, 1: {"loss": 2.0}, 2: {"loss": 3.0}}
    own = {0: {"loss": 0.9}, 1: {"loss": 1.89}, 2: {"loss": 2.92}}
    found = compare("loss", "lower", own, base)
    assert found is not None
    assert found.difference is not None
    assert found.mean.value == pytest.approx((0.9 + 1.89 + 2.92) / 3)
    assert found.difference.value == pytest.approx(-0.29 / 3)
    assert found.difference[1:] == pytest.approx((-0.11, -0.08))
    assert found.verdict == BETTER
    assert compare("loss", "higher", own, base).verdict == WORSE  # type: ignore[union-attr]
    mixed = own | {1: {"loss": 2.3}}
    assert compare("loss", "lower", mixed, base).verdict == OPEN  # type: ignore[union-attr]


def test_one_seed_decides_nothing_and_missing_ones_are_left_out() -> None:
    base = {0: {"loss": 1.0}, 1: {"loss": 2.0}}
    one = compare("loss", "lower", {0: {"loss": 0.5}, 3: {"loss": 7.0}}, base)
    assert one is not None
    assert one.difference is not None
    assert one.difference.value == pytest.approx(-0.5)
    assert one.mean.value == pytest.approx(3.75)
    assert one.verdict == OPEN
    assert compare("psnr", "higher", {0: {"loss": 1.0}}, base) is None


def finish(cell: Cell, **figures: float) -> None:
    cell.folder.mkdir(parents=True, exist_ok=True)
    record = {"status": DONE, "seconds": 90.0, "figures": figures}
    (cell.folder / "result.json").write_text(json.dumps(record))


def some_cells(out: Path, **changes: object) -> list[Cell]:
    ablation = made(seeds=[0, 1], **changes)
    return cells_of(ablation, [(variant, 2) for variant in variants(ablation)], out)


def test_a_figure_that_nothing_measures_is_named(tmp_path: Path) -> None:
    cells = some_cells(tmp_path, figures={"psnr": "higher", "exakt": "higher"})
    assert run.unmeasured(cells[0].ablation, cells) == []
    finish(cells[0], psnr=20.0, exact=0.5)
    (line,) = run.unmeasured(cells[0].ablation, cells)
    assert line == "figures: no cell has measured exakt; there are exact, psnr"


def test_the_table_has_figures_differences_and_reasons(tmp_path: Path) -> None:
    cells = some_cells(tmp_path)
    for cell in cells[:3]:
        finish(cell, psnr=20.0 + cell.seed + (0.5 if cell.variant.name == "wide" else 0.0))
    cells[3].folder.mkdir(parents=True)
    reason = {"status": FAILED, "reason": "a | broken thing"}
    (cells[3].folder / "result.json").write_text(json.dumps(reason))
    found = rows(cells[0].ablation, cells)
    text = markdown(cells[0].ablation, found)
    assert "| base | 2 | 2 | 1.5 | 20.5 [20, 21] |" in text
    assert "| wide | 1 | 2 | 1.5 | 20.5 [20.5, 20.5] | +0.5 [+0.5, +0.5], open |" in text
    assert "failed: wide, seed 1: a | broken thing" in text
    table = list(csv.DictReader(io.StringIO(csv_table(cells[0].ablation, found))))
    assert [line["variant"] for line in table] == ["base", "wide"]
    assert float(table[1]["difference"]) == pytest.approx(0.5)
    every = list(csv.DictReader(io.StringIO(csv_cells(cells))))
    assert [(line["variant"], line["status"]) for line in every] == [
        ("base", DONE),
        ("wide", DONE),
        ("base", DONE),
        ("wide", FAILED),
    ]


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    from experiments.ablation.report import write_report

    cells = some_cells(tmp_path, variants={}, sweep={"model.codebook_size": [16, 256]})
    for cell in cells:
        finish(cell, psnr=20.0 + cell.seed)
        (cell.folder / "run").mkdir()
        log = [{"step": step, "psnr": 10.0 + step} for step in (1, 2)]
        (cell.folder / "run" / "metrics.jsonl").write_text("\n".join(map(json.dumps, log)))
    page = write_report(cells[0].ablation, cells, tmp_path).read_text("utf-8")
    assert page.count('src="data:image/png;base64,') == 2  # the sweep, the curves
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "python train_dvae.py" in page
    assert (tmp_path / "commands.sh").read_text().count("train_dvae.py") == 4


WORKER = """
import json, pathlib, sys, threading, time, os, signal
folder = pathlib.Path(sys.argv[1])
name = f"{folder.parent.name}/{folder.name}"
with open(folder / "starts", "a") as file:
    file.write("x")
def gone():
    while os.read(0, 1): pass
    (folder / "gone").write_text("")
    os._exit(130)
threading.Thread(target=gone, daemon=True).start()
signal.signal(signal.SIGTERM, lambda *_: os._exit(130))
doing = DOING.get(name, "finish")
if doing == "hang": time.sleep(60)
if doing == "die": os._exit(3)
result = {"status": "finished", "seconds": 1.0, "figures": {"psnr": 1.0}}
if doing == "fail": result = {"status": "failed", "reason": "no data"}
(folder / "result.json").write_text(json.dumps(result))
"""


def play(monkeypatch: pytest.MonkeyPatch, doing: dict[str, str]) -> None:
    """Let cells be worked by a process that takes no time."""
    code = WORKER.replace("DOING", repr(doing))

    def command(cell: Cell) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-S", "-c", code, str(cell.folder)], dict(os.environ)

    monkeypatch.setattr(workers, "worker_command", command)
    monkeypatch.setattr(workers, "POLL", 0.02)


def planned(out: Path) -> list[Cell]:
    cells = some_cells(out)
    for cell in cells:
        cell.folder.mkdir(parents=True, exist_ok=True)
        cell.write_plan()
    return cells


def work(cells: list[Cell], out: Path) -> None:
    with workers.only_one(out) as lock:
        workers.work_off(cells, 2, 1, lock)


def starts(cells: list[Cell]) -> list[int]:
    return [len((cell.folder / "starts").read_text()) for cell in cells]


def test_finished_cells_stay_and_failed_ones_are_tried_again(monkeypatch, tmp_path, capsys) -> None:
    cells = planned(tmp_path)
    play(monkeypatch, {"wide/seed-0": "fail", "wide/seed-1": "die"})
    work(cells, tmp_path)
    assert [cell.result()["status"] for cell in cells] == [DONE, FAILED, DONE, FAILED]
    assert cells[1].result()["reason"] == "no data"
    assert "status 3" in cells[3].result()["reason"]
    assert "failed: wide, seed 0: no data" in capsys.readouterr().err
    play(monkeypatch, {})
    work(cells, tmp_path)
    assert [cell.result()["status"] for cell in cells] == [DONE] * 4
    assert starts(cells) == [1, 2, 1, 2]


def test_a_base_that_does_not_train_ends_it(monkeypatch, tmp_path) -> None:
    cells = planned(tmp_path)
    play(monkeypatch, {"base/seed-0": "fail"})
    with pytest.raises(UserError, match=r"the base 'base' does not train.*no data"):
        work(cells, tmp_path)
    assert not (cells[2].folder / "starts").exists()


def test_a_changed_cell_is_refused_where_something_is_there(tmp_path: Path) -> None:
    cells = planned(tmp_path)
    finish(cells[0], psnr=1.0)
    cells[0].write_plan()
    changed = some_cells(tmp_path, variants={"base": {"optimiser.lr": 1e-4}, "wide": {}})
    with pytest.raises(UserError, match=r"made for something else \(nothing then, optimiser.lr"):
        changed[0].write_plan()
    changed[1].write_plan()  # of which nothing has been trained


def test_a_base_config_that_has_changed_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "base.yaml"
    config.write_text("model: {codebook_size: 16}\n")
    cells = some_cells(tmp_path / "out", config=str(config))
    cells[0].folder.mkdir(parents=True)
    cells[0].write_plan()
    finish(cells[0], psnr=1.0)
    cells[0].write_plan()
    config.write_text("model: {codebook_size: 32}\n")
    with pytest.raises(UserError, match=r"\(model.codebook_size 16 then, 32 now\)"):
        cells[0].write_plan()


def test_an_option_that_came_to_be_changes_no_cell(tmp_path: Path) -> None:
    cells = planned(tmp_path)
    finish(cells[0], psnr=1.0)
    path = cells[0].folder / "plan.json"
    plan = json.loads(path.read_text())
    assert plan["config"]["held_out_images"] == 512
    del plan["config"]["held_out_images"]
    path.write_text(json.dumps(plan))
    cells[0].write_plan()
    assert "held_out_images" in json.loads(path.read_text())["config"]
    plan["config"]["held_out_images"] = 64
    path.write_text(json.dumps(plan))
    with pytest.raises(UserError, match=r"\(held_out_images 64 then, 512 now\)"):
        cells[0].write_plan()
    path.write_text(json.dumps(plan | {"config": {"no_such_option": 3}}))
    with pytest.raises(UserError, match="its base config has changed"):
        cells[0].write_plan()


def test_sigterm_stops_the_cells_and_keeps_what_is_finished(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import sys
        sys.path[:0] = [{str(Path.cwd())!r}, {str(Path(__file__).parent)!r}]
        from pathlib import Path
        import pytest, test_ablations as t
        out = Path(sys.argv[1])
        t.play(pytest.MonkeyPatch(), {{"wide/seed-0": "hang", "base/seed-1": "hang"}})
        t.work(t.planned(out), out)
        """
    )

    command = [sys.executable, "-c", program, str(tmp_path)]
    cells = some_cells(tmp_path)
    with running(command) as process:
        wait_for(lambda: started(cells[2]))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) != 0
    assert [cell.result()["status"] for cell in cells[:3]] == [DONE, "not finished", "not finished"]

    with running(command):  # and one that is killed takes its cells with it
        wait_for(lambda: starts(cells[1:3]) == [2, 2])
    wait_for(lambda: all((cell.folder / "gone").exists() for cell in cells[1:3]))
    assert starts(cells[:1]) == [1]


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed, where it still runs, at the end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def started(cell: Cell) -> bool:
    return (cell.folder / "starts").exists()


def wait_for(condition, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < until
        time.sleep(0.05)


def test_only_one_command_works_in_a_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(workers, "HELD", 0.1)
    monkeypatch.setattr(workers, "POLL", 0.02)
    with (
        workers.only_one(tmp_path),
        pytest.raises(UserError, match="another command works in"),
        workers.only_one(tmp_path),
    ):
        pass
    with workers.only_one(tmp_path):
        pass


def test_the_reason_is_the_error_and_not_the_bar() -> None:
    heard = Heard(io.StringIO())
    heard.write("  5%|#  | 1/20\r 10%|# | 2/20\rerror: the disk is full\n 10%|# | 2/20\n")
    assert heard.reason() == "the disk is full"


def test_numbers_in_records_have_dotted_names() -> None:
    record = {"psnr": 20, "judge": {"known": {"top1": 0.5, "who": "x", "is": True}}}
    assert dict(numbers(record)) == {"psnr": 20.0, "judge.known.top1": 0.5}


@pytest.mark.slow
def test_a_whole_ablation_goes_on_after_a_kill(tmp_path: Path) -> None:
    """Real trainings: killed in the middle, gone on with, and then never again."""
    path = tmp_path / "small.yaml"
    small = {
        "model": {"network": {"width": 4, "bottleneck": 2}, "codebook_size": 16},
        "run.batch_size": 2,
        "data.count": 16,
        "held_out_images": 4,
    }
    variants_of = {"base": {}, "broken": {"init": str(tmp_path / "none")}}
    ablation = BASE | {"set": small, "variants": variants_of, "budget": {"updates": 12}}
    path.write_text(yaml.safe_dump(ablation | {"seeds": [0, 1], "points": 4}))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "experiments.run", str(path), "--out", str(out)]
    command += ["--processes", "1"]
    log = out / "cells" / "base" / "seed-0" / "run" / "metrics.jsonl"
    with running(command):
        wait_for(lambda: '"step": 3' in log.read_text(), seconds=240)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 of 4 cells finished, 2 failed" in done.stdout
    assert "none" in (out / "table.md").read_text()
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps[-1] == 12
    before = {p: p.stat().st_mtime_ns for p in out.rglob("model.safetensors")}
    assert len(before) == 4
    again = subprocess.run([*command, "--report"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert {p: p.stat().st_mtime_ns for p in out.rglob("model.safetensors")} == before
    for cell in ("seed-0", "seed-1"):
        result = json.loads((out / "cells" / "base" / cell / "result.json").read_text())
        assert result["figures"]["psnr"] > 0


@pytest.mark.slow
def test_a_miniature_of_what_only_evaluates_measures_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.run", "configs/ablations/candidates.yaml"]
    command += ["--smoke", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 cells finished" in done.stdout
    result = tmp_path / "out" / "cells" / "temperature-0.7" / "seed-1" / "result.json"
    assert "sample_best_of_4_exact" in json.loads(result.read_text())["figures"]
