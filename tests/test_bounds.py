"""Every number of a config has bounds, and what needs more memory than there is, is refused."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Optional, get_args

import pytest
import torch

import search
import train_clip
import train_dalle
import train_decoder
import train_dvae
import train_prior
from dalle.config import Sampling
from dalle.patterns import PATTERNS
from dalle.request import Request
from dalle.transformer import Transformer
from dalle_base.common.bounds import Bounds, check_bounds, range_text, typed_fields, unbounded
from dalle_base.common.config import help_text, load_config
from dalle_base.common.errors import UserError
from dalle_base.data.sources import SOURCES
from dalle_base.training import room
from dalle_evaluation.judge_options import Judging
from dalle_guided.request import GuideRequest
from dual_encoder.checkpoint import read_config
from dual_encoder.model import DualEncoder
from dvae.kinds import KINDS, config_class, tokenizer_class
from dvae.vqgan.quantisers import QUANTISERS
from experiments.learning_speed import LearningSpeed
from unclip.checkpoint import make_decoder, make_prior
from unclip.config import UnclipSampling
from unclip.request import UnclipRequest

Script = Callable[..., tuple[int, str, str]]
CONFIGS = Path(__file__).parents[1] / "configs"


def schemas() -> Iterator[type]:
    """Each dataclass that a user sets numbers of, those inside others included."""
    roots: list[Any] = [train_dvae.TrainDVAE, train_dalle.TrainDALLE, train_clip.TrainDualEncoder]
    roots += [train_prior.TrainPrior, train_decoder.TrainDecoder, UnclipRequest, GuideRequest]
    roots += [Sampling, Request, Judging, LearningSpeed, UnclipSampling, *SOURCES.values()]
    roots += [config_class(kind) for kind in KINDS]
    roots += [table.Options for each in (PATTERNS, QUANTISERS) for table in each.values()]
    while roots:
        schema = roots.pop()
        yield schema
        kinds = (arg for hint in typed_fields(schema).values() for arg in (hint, *get_args(hint)))
        roots += [
            kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)
        ]


def test_every_number_of_every_config_has_bounds() -> None:
    seen = set(schemas())
    assert len(seen) > 25
    for schema in seen:
        for name, hint in typed_fields(schema).items():
            assert not unbounded(hint), f"{schema.__qualname__}.{name} is a number without bounds"


def test_a_number_without_bounds_is_found_wherever_it_is() -> None:
    bounded = Annotated[int, Bounds(0, 1)]
    for hint in (int, float, list[int], int | None, dict[str, list[float]], tuple[bounded, int]):
        assert unbounded(hint)
    for hint in (str, bool, bounded, list[bounded], Optional[bounded], dict[str, Any]):  # noqa: UP045
        assert not unbounded(hint)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "text"),
    [
        (Bounds(1, 10**6), (1, 10**6), (0, 10**6 + 1), "from 1 to 1,000,000"),
        (Bounds(0, 1, below=True), (0, 0.999), (-1e-9, 1, 1.5), "from 0 to below 1"),
        (
            Bounds(0, 1e6, above=True),
            (5e-324, 1e6),
            (0, -0.0, math.inf),
            "above 0, up to 1,000,000",
        ),
        (Bounds(0, 1, above=True, below=True), (0.5,), (0, 1), "above 0 and below 1"),
        (Bounds(0, math.inf), (0, math.inf), (-1, -math.inf), "from 0 on"),
        (Bounds(0.25, 1), (0.25,), (0.2,), "from 0.25 to 1"),
    ],
)
def test_what_lies_in_bounds(bounds: Bounds, inside: Any, outside: Any, text: str) -> None:
    assert all(map(bounds.admit, inside))
    assert not any(map(bounds.admit, (*outside, math.nan)))
    assert str(bounds) == text


@dataclasses.dataclass
class Toy:
    count: Annotated[int, Bounds(1, 9, hint="a digit")] = 1
    shares: list[Annotated[float, Bounds(0, 1)]] = dataclasses.field(default_factory=list)
    place: tuple[Annotated[int, Bounds(0, 3)], Annotated[int, Bounds(0, 7)]] | None = None
    named: dict[str, Annotated[int, Bounds(0, 3)]] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, r"^toy\.count is 0: write a whole number from 1 to 9 \(a digit\)$"),
        ({"count": 10**5000}, r"^toy\.count is a number of more than 60 digits: write"),
        ({"shares": [0.0, math.nan]}, r"^toy\.shares is \[0\.0, nan\]: write numbers from 0 to 1$"),
        ({"shares": [0.0] * 1025}, r"^toy\.shares has 1025 numbers: write at most 1,024$"),
        ({"place": (3, 8)}, r"^toy\.place is \(3, 8\): write whole numbers from 0 to 7$"),
        ({"named": {"a": 4}}, r"^toy\.named is \{'a': 4\}: write whole numbers from 0 to 3$"),
    ],
)
def test_a_number_out_of_bounds_is_one_line(values: dict[str, Any], message: str) -> None:
    check_bounds(Toy(place=(3, 7), shares=[1, 0], named={"a": 3}))
    with pytest.raises(UserError, match=message):
        check_bounds(Toy(**values), "toy.")


def test_flags_are_named_as_they_are_written() -> None:
    with pytest.raises(UserError, match=r"^--keep-rows is -1: write a whole number from 0"):
        Request("a", Path(), Path(), image=Path("x.png"), keep_rows=-1)


def test_help_shows_bounds(run_script: Script) -> None:
    page = " ".join(help_text(train_dvae.TrainDVAE, "").split())
    assert "Decay of the exponential moving average of the parameters. (from 0 to below 1)" in page
    assert range_text(typed_fields(Toy)["place"]) == "from 0 to 3; from 0 to 7"
    _, page, _ = run_script(search.main, "find", "--help")
    assert "images to find (from 1 to 1,000,000,000,000)" in " ".join(page.split())


@pytest.mark.parametrize(
    ("main", "overrides"),
    [
        (train_dvae.main, ["model.network.width=65536"]),
        (train_dvae.main, ["run.batch_size=1048576"]),
        (train_dvae.main, ["tokenizer=vqgan", "model.network.width=65536"]),
        (train_dvae.main, ["tokenizer=vqgan", "run.batch_size=1048576"]),
        (train_dalle.main, ["model.d_model=65536"]),
        (train_dalle.main, ["model.rows=1024", "model.columns=1024", "model.depth=1"]),
        (train_dalle.main, ["model.depth=1", "run.batch_size=1048576"]),
        (train_clip.main, ["model.text={width: 65536}"]),
        (train_clip.main, ["run.batch_size=1048576"]),
        (train_prior.main, ["model.head_width=8192"]),
        (train_decoder.main, ["model.channels=[65536]", "model.attention=[0]"]),
        (train_decoder.main, ["run.batch_size=1048576"]),
    ],
)
def test_what_cannot_fit_is_refused_before_it_is_made(
    main: Callable[[], int],
    overrides: list[str],
    tmp_path: Path,
    run_script: Script,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "memory_here", lambda: 64 * 10**9)
    out = tmp_path / "run"
    status, _, error = run_script(main, *overrides, f"run.out={out}")
    assert status == 2
    assert error.startswith("error: this needs at least ")
    assert "and there are 64.0 GB: " in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    "name",
    [
        *("dvae/emoji", "dvae/emoji-decoder", "dvae/emoji-vqgan", "dalle/emoji", "clip/emoji"),
        *("unclip/emoji-prior", "unclip/emoji-decoder"),
    ],
)
def test_the_least_size_is_near_to_the_size_and_never_above(name: str) -> None:
    scripts: dict[str, Any] = {
        "dvae": train_dvae.TrainDVAE,
        "dalle": train_dalle.TrainDALLE,
        "clip": train_clip.TrainDualEncoder,
        "prior": train_prior.TrainPrior,
        "decoder": train_decoder.TrainDecoder,
    }
    stage = name.partition("/")[0] if "unclip" not in name else name.partition("-")[2]
    config = load_config(scripts[stage], "", ["--config", str(CONFIGS / f"{name}.yaml")])
    with torch.device("meta"):
        if isinstance(config, train_dvae.TrainDVAE):
            model: Any = tokenizer_class(config.tokenizer)(config.model)
        elif stage in ("prior", "decoder"):
            make: Any = make_prior if stage == "prior" else make_decoder
            model = make(config.model, read_config(Path(config.encoder)).dual_encoder)
        else:
            model = (DualEncoder if stage == "clip" else Transformer)(config.model)
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 0.2 * learned < config.model.least_size().parameters <= learned


def test_the_least_size_of_the_papers_transformer() -> None:
    assert 0.99 < train_dalle.TrainDALLE().model.least_size().parameters / 12_292_836_992 <= 1


def test_memory_is_that_of_the_container_and_of_all_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    limit = tmp_path / "memory.max"
    swap = room.psutil.swap_memory().total
    monkeypatch.setattr(room, "LIMITS", (str(limit),))
    for text, expected in (("max", room.psutil.virtual_memory().total), ("1000", 1000)):
        limit.write_text(text)
        assert room.memory_here() == expected + swap
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert room.memory_here() == 2 * (1000 + swap)
