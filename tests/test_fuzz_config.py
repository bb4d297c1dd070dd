"""Any YAML as a config, any text as an override, any number in any field: a config or one line."""

import math
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rankers import untrained
from tiny_runs import MAINS, arguments_of

import train_clip
import train_dalle
import train_decoder
import train_dvae
import train_prior
from dalle_base.common.bounds import typed_fields
from dalle_base.common.config import load_config, parse_yaml, to_yaml
from dalle_base.common.errors import UserError
from dalle_base.common.schema import sections, walk_fields
from dalle_base.data.sources import SOURCES, data_of
from dual_encoder.checkpoint import save_dual_encoder
from dvae.kinds import KINDS

SCRIPTS: dict[str, Any] = {
    "dvae": train_dvae.TrainDVAE,
    "dalle": train_dalle.TrainDALLE,
    "clip": train_clip.TrainDualEncoder,
    "prior": train_prior.TrainPrior,
    "decoder": train_decoder.TrainDecoder,
}
EXTREMES = (
    *("nan", "inf", "-inf", "0", "-0.0", "-1", "1", "2", "1e-320", "-1e-320", "1e308", "-1e308"),
    *("1e400", "2147483648", "4294967296", "-9223372036854775809", "18446744073709551616", "0.5"),
    *("1000000000000", "1.0000001", "1e3", "0x10", "1_000", "9" * 5000, "-" + "9" * 400, "", " "),
)
"""What a number may be written as."""
SHARE = settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MANY = settings(SHARE, max_examples=250)
fuzzed = pytest.mark.parametrize(
    "how", [SHARE, pytest.param(MANY, marks=pytest.mark.slow)], ids=["share", "many"]
)


def held(load: Callable[[], Any]) -> Any:
    """Return what `load` does, or None where it is refused, which must be in one line."""
    try:
        return load()
    except UserError as error:
        message = str(error)
    assert message.strip()
    assert len(message.splitlines()) == 1
    assert len(message) < 2000
    return None


@cache
def numbers(script: str, *chosen: str) -> dict[str, Any]:
    """The names and types of a script's fields that have numbers, for what is chosen."""
    config = load_config(SCRIPTS[script], "", list(chosen))
    found = {}
    for name, section, _ in sections(config):
        for field, hint in typed_fields(type(section)).items():
            if "Bounds" in repr(hint):
                found[f"{name}.{field}" if name else field] = hint
    return found


def every_number() -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Each script, what is chosen there, and each field of a number that it then has."""
    for script in SCRIPTS:
        choices = [(f"data.source={source}",) for source in SOURCES]
        choices += [(f"tokenizer={kind}",) for kind in KINDS] if script == "dvae" else []
        known: set[str] = set()
        for chosen in choices:
            new = set(numbers(script, *chosen)) - known
            known |= new
            yield from ((script, chosen, name) for name in sorted(new))


def finite(value: Any) -> bool:
    """Whether no number in a value is NaN, and none infinite."""
    items = value if isinstance(value, list | tuple) else [value]
    return all(not isinstance(item, float) or math.isfinite(item) for item in items)


def try_number(script: str, chosen: tuple[str, ...], name: str, text: str) -> Any:
    """Load a config with a number; what is accepted lies in its bounds, and can be read back."""
    as_list = f"[{text}]" if "list[" in str(numbers(script, *chosen)[name]) else text
    config = held(lambda: load_config(SCRIPTS[script], "", [*chosen, f"{name}={as_list}"]))
    if config is not None:
        for field, value, _ in walk_fields(config):
            assert finite(value) or field == "optimiser.clip", field
        parse_yaml(to_yaml(config))
    return config


def test_a_few_extremes_of_every_number() -> None:
    for place, (script, chosen, name) in enumerate(every_number()):
        if place % 5:
            continue  # the rest is left to the slow test
        assert try_number(script, chosen, name, "nan") is None
        try_number(script, chosen, name, EXTREMES[place % len(EXTREMES)])


@pytest.mark.slow
def test_many_extremes_of_every_number() -> None:
    """Each of a third of them; which third goes round from number to number."""
    for place, (script, chosen, name) in enumerate(every_number()):
        for text in EXTREMES[place % 3 :: 3]:
            try_number(script, chosen, name, text)


# any YAML mapping ---------------------------------------------------------------------------------

NAMES = sorted(
    {part for script in SCRIPTS for name in numbers(script) for part in name.split(".")}
    | {"base", "source", "layers", "pattern_options", "conv", "kernel", "parts", "tokenizer"}
    | {"quantiser_options", "previews", "confusable", "path", "name", "schedule", "out"}
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.binary(max_size=4),
    st.dates(),
    st.datetimes(),
    st.sampled_from([*EXTREMES[:20], "mixture", "shapes", "vqgan", "muon", "conv", "row"]),
)
KEYS = st.one_of(st.sampled_from(NAMES), SCALARS.filter(lambda key: not isinstance(key, bytes)))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def mappings(draw: st.DrawFn) -> tuple[str, dict[Any, Any]]:
    """A script, and a mapping for it: some of its own keys at their places, with any value."""
    script = draw(st.sampled_from(sorted(SCRIPTS)))
    values: dict[Any, Any] = draw(st.dictionaries(KEYS, VALUES, max_size=3))
    for name in draw(st.lists(st.sampled_from(sorted(numbers(script))), max_size=4)):
        at, parts = values, name.split(".")
        for part in parts[:-1]:
            inner = at.get(part)
            at[part] = at = inner if isinstance(inner, dict) else {}
        at[parts[-1]] = draw(VALUES)
    return script, values


def write_and_load(path: Path, text: bytes, script: str) -> None:
    path.write_bytes(text)
    config = held(lambda: load_config(SCRIPTS[script], "", ["--config", str(path)]))
    held(lambda: data_of(path))
    if config is not None:
        path.write_text(to_yaml(config), encoding="utf-8")
        assert load_config(SCRIPTS[script], "", ["--config", str(path)]) == config


@fuzzed
def test_any_mapping(how: settings, tmp_path: Path) -> None:
    @how
    @given(mappings())
    def run(case: tuple[str, dict[Any, Any]]) -> None:
        script, values = case
        text = yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "surrogatepass")
        write_and_load(tmp_path / "c.yaml", text, script)

    run()


PIECES = st.sampled_from(
    [
        *("run", "updates", "data", "source", "base", "model", "<<", "a", ": ", ":", "\n", "\n  "),
        *(
            "  ",
            "- ",
            "? ",
            "{",
            "}",
            "[",
            "]",
            ",",
            "&a ",
            "*a",
            "#",
            "|",
            ">",
            "'",
            '"',
            "%",
            "@",
        ),
        *("!", "!!set", "!!binary ", "!!python/none ", "!!int ", "\t", "\0", "\r", "\ufeff"),
        *("\u2028", "---\n", "...\n", "~", "\\ud800", "\\0", "1", "1-2-3"),
    ]
)


@fuzzed
def test_any_text_as_a_file(how: settings, tmp_path: Path) -> None:
    texts = st.lists(PIECES | st.text(max_size=3), max_size=16).map("".join)
    encoded = st.tuples(texts, st.sampled_from(["utf-8", "utf-16", "utf-32", "utf-8-sig"])).map(
        lambda pair: pair[0].encode(pair[1], "surrogatepass")
    )

    @how
    @given(encoded | st.binary(max_size=40), st.sampled_from(sorted(SCRIPTS)))
    def run(text: bytes, script: str) -> None:
        write_and_load(tmp_path / "c.yaml", text, script)

    run()


@fuzzed
def test_any_text_as_an_override(how: settings) -> None:
    anything = st.text(st.characters(exclude_categories=()), max_size=20)  # half pairs, too
    keys = st.sampled_from([*NAMES, *numbers("dvae"), "run", "data", "model", "model.network"])
    words = st.lists(
        anything
        | st.tuples(keys, anything | PIECES).map("=".join)
        | st.tuples(keys, anything, VALUES).map(lambda t: f"{t[0]}.{t[1]}={t[2]}")
        | st.tuples(keys, st.lists(PIECES, max_size=8)).map(lambda t: f"{t[0]}={''.join(t[1])}"),
        max_size=3,
    ).filter(lambda words: not {"--help", "-h", "--config"} & set(words))

    @how
    @given(words, st.sampled_from(sorted(SCRIPTS)))
    def run(arguments: list[str], script: str) -> None:
        config = held(lambda: load_config(SCRIPTS[script], "", arguments))
        if config is not None:
            to_yaml(config).encode("utf-8")

    run()


# known oddities -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: &a [*a]", "nested more than 50 deep"),
        ("run: &a {updates: *a}", "nested more than 50 deep"),
        ("[" * 200, "nested more than 50 deep"),
        (
            "run: {updates: 1}\nrun: {seed: 2}",
            r"the key 'run' is written twice \(line 2, column 1\)",
        ),
        ("run: {out: !!binary aGk=}", "is no tag that a config may have"),
        ("!!set {a, b}", "is no tag that a config may have"),
        ("run: !!python/object/apply:os.system [ls]", "is no tag that a config may have"),
        ("run: {compile: !!bool maybe}", "'maybe' cannot be read as its tag says"),
        ("? [1, 2]\n: 3", "unhashable key"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: 1\0", "character 5 is none of a text"),
        ("\ta: 1", "cannot start any token"),
        (f"run: {{seed: {'9' * 5000}}}", "is no whole number"),
        (f"run: {{seed: {'9' * 400}}}", "run.seed is a number of more than 60 digits"),
        (f"optimiser: {{lr: {'9' * 400}}}", "wrong type for optimiser.lr"),
        ('run: {out: "a\\0b"}', r"run\.out is 'a\\x00b', which holds a character that no text"),
        ('previews: ["\\ud800"]', "previews is .* a character that no text file may have"),
        ("base: c.yaml", "base leads back to"),
        ("base: .", "is a folder or a device"),
        ("base: /dev/zero", "is a folder or a device"),
        ("data: [1]", "data"),
    ],
)
def test_what_no_config_may_hold_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_config(train_dalle.TrainDALLE, "", ["--config", str(path)])
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("first", ["[x, x, x, x, x, x, x, x, x]", "{<<: {}, x: 1}"])
def test_aliases_that_multiply_end_soon(tmp_path: Path, first: str) -> None:
    """Ten lines would stand for a billion values."""
    lines = [f"k0: &k0 {first}"]
    for i in range(1, 12):
        nine = ", ".join([f"*k{i - 1}"] * 9)
        lines.append(f"k{i}: &k{i} " + (f"[{nine}]" if first[0] == "[" else f"{{<<: [{nine}]}}"))
    path = tmp_path / "c.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"more than 100,000 values|unknown key k0"):
        load_config(train_dvae.TrainDVAE, "", ["--config", str(path)])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_as_other_systems_write_them(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes("run: {updates: 7, out: bär}\r\n".encode(encoding))
    config = load_config(train_dvae.TrainDVAE, "", ["--config", str(path)])
    assert (config.run.updates, config.run.out) == (7, "bär")


def test_plain_words_stay_texts(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("previews: [2024-01-01, 12:30, no, 0o7]\nrun: {updates: 010, seed: 0x10}")
    config = load_config(train_dalle.TrainDALLE, "", ["--config", str(path)])
    assert config.previews == ["2024-01-01", "12:30", "no", "0o7"]
    assert (config.run.updates, config.run.seed) == (10, 16)


def test_a_merged_mapping_gives_way_to_what_is_written_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("run: {<<: {updates: 4, seed: 3}, updates: 5}")
    config = load_config(train_dvae.TrainDVAE, "", ["--config", str(path)])
    assert (config.run.updates, config.run.seed) == (5, 3)


# real runs ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_runs_with_extremes_end_well_or_in_one_line(
    image_folder: Path, tmp_path: Path, run_script: Callable[..., tuple[int, str, str]]
) -> None:
    tokenizer = tmp_path / "stage one/tokenizer"
    encoder = tmp_path / "encoder"
    save_dual_encoder(encoder, untrained())
    given = arguments_of("dvae", image_folder, tokenizer, encoder)
    assert run_script(MAINS["dvae"], *given, f"run.out={tokenizer.parent}")[0] == 0
    order = random.Random(0)
    cases = [case for case in every_number() if case[1][0] == "data.source=folder"]
    for number, (script, _, name) in enumerate(order.sample(cases, 16)):
        text = order.choice(EXTREMES)
        as_list = f"[{text}]" if "list[" in str(numbers(script)[name]) else text
        out = tmp_path / str(number)
        given = [*arguments_of(script, image_folder, tokenizer, encoder), f"run.out={out}"]
        status, _, error = run_script(MAINS[script], *given, f"{name}={as_list}")
        said = [line for line in error.splitlines() if line.startswith("error: ")]
        assert status in (0, 2), (script, name, text)
        assert len(said) == (1 if status else 0), (script, name, text, error)
