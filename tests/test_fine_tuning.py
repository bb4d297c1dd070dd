"""docs/fine-tuning.md, executed in miniature: its commands, with few updates of few images."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sample
import train_dalle
import train_dvae
from dalle_base.common.checkpoint import read_weights
from dalle_base.data.inspect.__main__ import main as inspect

Script = Callable[..., tuple[int, str, str]]
DOCUMENT = Path(__file__).parents[1] / "docs/fine-tuning.md"
MAINS = {
    "sample.py": sample.main,
    "train_dalle.py": train_dalle.main,
    "train_dvae.py": train_dvae.main,
}


def commands() -> list[list[str]]:
    """The words of the document's commands behind `python`."""
    blocks = re.findall(r"```bash\n(.*?)```", DOCUMENT.read_text("utf-8"), re.S)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


@pytest.mark.slow
def test_the_walkthrough_runs_and_teaches_the_shipped_model(
    tmp_path: Path, run_script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "my_images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(images / f"{number}.png")
        (images / f"{number}.txt").write_text(f"noise of kind {number}")
    found = commands()
    assert len(found) == 5
    seen = []
    for words in found:
        words = [re.sub(r"run\.updates=\d+", "run.updates=2", word) for word in words]
        if words[0] == "-m":
            status, printed, error = run_script(inspect, *words[2:])
            assert "6 images" in printed
            assert (tmp_path / "out/inspect.png").exists()
        elif words[0] == "sample.py":
            words[-1] = "1"
            status, printed, error = run_script(MAINS[words[0]], *words[1:], "--no-rerank")
        else:
            small = ("run.batch_size=2", "run.evaluate_every=2")
            status, printed, error = run_script(MAINS[words[0]], *words[1:], *small)
            assert "wrote runs/" in printed
        assert status == 0, error
        seen.append(words[0])
    assert {"-m", *MAINS} == set(seen)
    shipped = read_weights(Path("models/emoji"))
    tuned = read_weights(Path("runs/tuned/model"))
    assert {name: tensor.shape for name, tensor in tuned.items()} == {
        name: tensor.shape for name, tensor in shipped.items()
    }
    assert any((tuned[name] != shipped[name]).any() for name in tuned)
    codes = [read_weights(Path(f"runs/{name}/model/tokenizer")) for name in ("tuned", "tuned-2")]
    encoders = [name for name in codes[0] if name.startswith("encoder")]
    assert encoders
    assert all((codes[0][name] == codes[1][name]).all() for name in encoders)
    assert any((codes[0][name] != codes[1][name]).any() for name in codes[0])
