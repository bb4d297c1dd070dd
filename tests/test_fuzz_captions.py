"""Any Unicode as a caption of sample.py: images and a record, or one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import build
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import sample
from dalle.text_to_image import TextToImage
from dalle_base.data.text_training import train_text
from dvae.config import DVAEConfig, NetworkConfig
from dvae.model import DiscreteVAE

Script = Callable[..., tuple[int, str, str]]
SHARE = settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
fuzzed = pytest.mark.parametrize(
    "how",
    [SHARE, pytest.param(settings(SHARE, max_examples=150), marks=pytest.mark.slow)],
    ids=["share", "many"],
)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model in place of whichever is asked for."""
    network = NetworkConfig(width=8, groups=2, blocks=1, bottleneck=2, decoder_init=4)
    tokenizer = DiscreteVAE(DVAEConfig(8, 4, 13, network)).eval()
    transformer = build(text_vocab=256, text_length=8, rows=4, columns=4, depth=1, layers=["full"])
    model = TextToImage(transformer.eval(), train_text(["a red heart"], 256), tokenizer)
    monkeypatch.setattr(sample, "load", lambda request, device: (model, request))


@pytest.mark.usefixtures("_small")
@fuzzed
def test_any_caption(how: settings, tmp_path: Path, run_script: Script) -> None:
    @how
    @given(st.text(st.characters(exclude_categories=(), exclude_characters="\0"), max_size=80))
    @example("")
    @example("\ud800 half a pair, as bytes that are not UTF-8 come in")
    @example("\x1b[31m\r\n\u2028 steers a terminal")
    @example("ﷺ" * 60)
    @example("../../etc/passwd")
    @example("👩‍👩‍👧‍👦" * 30)
    @example("a" * 5000)
    def run(text: str) -> None:
        out = tmp_path / "out"
        arguments = [f"--text={text}", "--candidates=1", "--no-rerank", f"--out={out}"]
        status, printed, error = run_script(sample.main, *arguments)
        said = [line for line in error.splitlines() if line.startswith("error: ")]
        assert status in (0, 2)
        assert len(said) == (1 if status else 0)
        if status == 0:
            record: dict[str, Any] = json.loads(Path(printed.split()[-1]).read_text("utf-8"))
            assert record["text"] == text
            assert Path(printed.split()[-1]).resolve().is_relative_to(out.resolve())
        assert "Traceback" not in error

    run()
