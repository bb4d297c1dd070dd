"""Sampling codes: image tokens a second, memory, and how near a step is to the machine's floor.

    python -m benchmarks.sampling [--quick] [--candidates N ...] [--peer "COMMAND LINE"]

The model is of width 256, 6 layers, 4 heads of 64, the paper's order of patterns, in streams of 64
text tokens and 16x16 codes and of 256 and 32x32, for 1, 8, 64 and 512 candidates of a caption.
`eager` is ours as it comes, `compiled` the same step compiled; `bfloat16` and `int8`, compiled with
such weights, are measured for 8 and 64 in the shorter stream. The baselines are our own: `dense`
(benchmarks/dense_cache.py: every layer caches every position, the text once for each candidate) and
`recompute` (no cache: a full pass a code). Rates are means of the first, the middle and the last
row of the grid, each timed code by code, choice of the code included; `recompute` is timed on three
single codes. `peak_mb` is how far sampling raises the process's memory. `--peer` is the command
line of another implementation, for batch 8 at 64 + 16x16: it must print as its last line a JSON
object with `image_tokens_per_second`.

The ratios compare figures of 8 and of 64 candidates; those whose figures were not measured are left
out.

The floor of a step is the larger of two times: to read the weights and the caches' slots once at
the measured memory bandwidth, and to do the products' operations at the measured rate of a large
product, both in the step's own precision.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.dense_cache import DenseCache, decode_dense, prefill_dense
from benchmarks.measuring import ceiling, in_new_process, interleaved, memory_of, report
from dalle.cache import Slots
from dalle.compiled import compile_step
from dalle.config import Sampling, TransformerConfig
from dalle.generate import Step, eager_step, prefill
from dalle.precision import in_precision
from dalle.sampling import sample_codes
from dalle.transformer import Transformer
from dalle_base.common.errors import UserError, command

STREAMS = {"64+16x16": (64, 16), "256+32x32": (256, 32)}
SHORT, LONG = STREAMS
CANDIDATES, QUICK_CANDIDATES = (1, 8, 64, 512), (8, 64)
PRECISIONS = {"bfloat16": 2, "int8": 1}
"""Variants with other weights than float32, and the bytes of each."""
VARIANTS = ("eager", "compiled", *PRECISIONS, "dense", "recompute")
QUICK_VARIANTS = ("eager", "dense", "recompute")
SIZES: dict[str, Any] = {
    **{"text_vocab": 4096, "image_vocab": 1024, "depth": 6},
    **{"heads": 4, "head_width": 64, "d_model": 256},
}


class Case(NamedTuple):
    """What is measured at a time."""

    stream: str
    variant: str
    candidates: int

    @property
    def is_worth_it(self) -> bool:
        """Whether it says what no other case says already."""
        if self.variant == "recompute":
            return self.candidates <= 8  # its rate no longer grows
        # Half a minute of compiling each.
        return self.variant not in PRECISIONS or (
            self.stream == SHORT and self.candidates in QUICK_CANDIDATES
        )


Found = dict[Case, dict[str, float]]


class Ceilings(NamedTuple):
    """What the machine can do."""

    operations: dict[str, float]
    """A second, by the name of their type."""
    bandwidth: float
    """Bytes a second."""


def build(stream: str) -> Transformer:
    """Return the benchmark's model for a stream, with random weights."""
    torch.manual_seed(0)
    text, side = STREAMS[stream]
    config = TransformerConfig(**SIZES, text_length=text, rows=side, columns=side)
    return Transformer(config).eval().requires_grad_(False)


class Decoding:
    """Candidates of a caption, in the middle of being sampled."""

    def __init__(self, model: Transformer, step: Step | None, candidates: int, row: int) -> None:
        """`step` is None for dense caches; the codes above `row` are given."""
        stream = model.stream
        tokens = torch.randint(0, model.config.text_vocab, (1, stream.text_length))
        given = torch.randint(0, model.config.image_vocab, (1, row * stream.columns))
        self.model, self.step, self.candidates = model, step, candidates
        self.slots: list[Slots] = []
        self.dense: list[DenseCache] = []
        if step:
            logits, slots = prefill(model, tokens, given)
            self.slots = [each.repeat(candidates) for each in slots]
        else:
            logits, caches = prefill_dense(model, tokens, given)
            self.dense = [each.repeat(candidates) for each in caches]
        self.logits = logits.expand(candidates, -1)
        self.code = row * stream.columns

    def __call__(self) -> None:
        """Sample a code of each candidate, and decode it."""
        codes = sample_codes(self.logits, torch.rand(self.candidates), Sampling())
        if self.step:
            self.logits = self.step(codes, torch.tensor([self.code]), self.slots)
        else:
            self.logits = decode_dense(self.model, codes, self.dense)
        self.code += 1

    @property
    def cache_bytes(self) -> int:
        """Bytes of the caches."""
        stores = [each.store for each in self.dense if each.store is not None]
        return sum(x.nbytes for x in (*stores, *(x for each in self.slots for x in each)))


@torch.inference_mode()
def row_times(model: Transformer, step: Step | None, candidates: int, row: int) -> list[float]:
    """Return the seconds of each code of a row."""
    decoding = Decoding(model, step, candidates, row)
    times = []
    for _ in range(min(model.stream.columns, model.stream.image_length - 1 - decoding.code)):
        start = time.perf_counter()
        decoding()
        times.append(time.perf_counter() - start)
    return times


@torch.inference_mode()
def peak(case: Case) -> float:
    """Return the MB by which sampling raises the memory of this process, which has done no other.

    The case's variant is `eager` or `dense`.
    """
    model = build(case.stream)

    def few() -> None:
        step = None if case.variant == "dense" else eager_step(model)
        decoding = Decoding(model, step, case.candidates, model.stream.rows - 1)
        for _ in range(4):
            decoding()

    return memory_of(few)


@torch.inference_mode()
def recompute_times(model: Transformer, candidates: int) -> list[float]:
    """Return the seconds of one code by full passes, at the first, the middle and the last row."""
    stream, times = model.stream, []
    tokens = torch.randint(0, model.config.text_vocab, (candidates, stream.text_length))
    for row in rows_of(model):
        codes = torch.randint(0, model.config.image_vocab, (candidates, row * stream.columns))
        start = time.perf_counter()
        x = torch.cat([model.embed_text(tokens), model.embed_codes(codes)], dim=1)
        model.image_head(model.hidden(x)[:, -1])
        times.append(time.perf_counter() - start)
    return times


def rows_of(model: Transformer) -> list[int]:
    """Return the first, the middle and the last row of a model's grid."""
    rows = model.stream.rows
    return [0, rows // 2, rows - 1]


def measure(model: Transformer, variant: str, candidates: int) -> dict[str, float]:
    """Return a variant's figures for some candidates."""
    if variant == "recompute":
        seconds = statistics.mean(recompute_times(model, candidates))
        return {"tokens_per_second": candidates / seconds, "step_ms": seconds * 1e3}
    step: Step | None = None
    if variant == "eager":
        step = eager_step(model)
    elif variant != "dense":
        torch._dynamo.reset()  # or it would stop compiling after a few shapes
        step = compile_step(model)
    start = time.perf_counter()
    row_times(model, step, candidates, 0)  # warm, or compiled
    first = time.perf_counter() - start
    steps = [statistics.median(row_times(model, step, candidates, row)) for row in rows_of(model)]
    seconds = statistics.mean(steps)
    with torch.inference_mode():
        cache_bytes = Decoding(model, step, candidates, 0).cache_bytes
    return {
        "tokens_per_second": candidates / seconds,
        "step_ms": seconds * 1e3,
        "last_row_vs_first": steps[-1] / steps[0],
        "cache_mb": cache_bytes / 1e6,
        "first_row_s": first,
    }


def bandwidth() -> float:
    """Return the bytes a second that a sum over a large array reads."""
    array = torch.ones(64 * 2**20)
    seconds = interleaved({"sum": lambda: array.sum()}, 5)["sum"]
    return array.nbytes / seconds


def type_of(variant: str) -> str:
    """Return the name of the type in which a variant computes."""
    return "bfloat16" if variant in PRECISIONS else "float32"


def floor_seconds(model: Transformer, variant: str, candidates: int, ceilings: Ceilings) -> float:
    """Return the least time of a variant's step at these ceilings; `model` is in float32."""
    config, weight_bytes = model.config, PRECISIONS.get(variant, 4)
    size = model.image_head.weight.numel()
    size += sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    middle = model.stream.image_length // 2
    plans = [model.cache_plan(pattern) for pattern in model.patterns]
    read = sum(int((plan.bias[middle] == 0).sum()) for plan in plans)  # slots of a candidate
    text = len(model.patterns) * model.stream.text_inputs
    token = 2 * config.heads * config.head_width
    moved = weight_bytes * size + max(2, weight_bytes) * token * (candidates * read + text)
    operations = 2 * candidates * (size + token * (read + text))
    return max(moved / ceilings.bandwidth, operations / ceilings.operations[type_of(variant)])


def measure_all(
    counts: Sequence[int], variants: Sequence[str], ceilings: Ceilings, with_peaks: bool
) -> Found:
    """Measure variants for some numbers of candidates in all streams, printing as it goes."""
    found: Found = {}
    for stream in STREAMS:
        model = build(stream)
        rounded = {name: in_precision(model, name) for name in PRECISIONS if name in variants}
        for case in (Case(stream, name, count) for count in counts for name in variants):
            if not case.is_worth_it:
                continue
            _, variant, candidates = case
            figures = measure(rounded.get(variant, model), variant, candidates)
            if variant not in ("dense", "recompute"):
                least = floor_seconds(model, variant, candidates, ceilings)
                figures["floor_share"] = least * 1e3 / figures["step_ms"]
            if variant in ("eager", "dense") and with_peaks:
                figures["peak_mb"] = in_new_process("benchmarks.sampling", "--peak", *case)
            found[case] = figures
            shown = "".join(f"  {name} {value:.4g}" for name, value in figures.items())
            print(f"{stream:<10}{variant:<10}{candidates:>4}{shown}", flush=True)
    return found


def ratios_of(found: Found, peer: float | None = None) -> dict[str, float]:
    """Return the ratios whose parts were measured.

    Args:
        found: the figures of each case.
        peer: another implementation's tokens a second, for 8 candidates in the short stream.
    """
    measured = {case.variant for case in found}
    best = "compiled" if "compiled" in measured else "eager"  # in float32, as the baselines
    ratios: dict[str, float] = {}
    long, dense = found.get(Case(LONG, best, 64)), found.get(Case(LONG, "dense", 64))
    if long:
        ratios["last_row_vs_first"] = long["last_row_vs_first"]
        ratios["floor_share_64"] = long["floor_share"]
    if long and dense:
        ratios["vs_dense_cache_64"] = long["tokens_per_second"] / dense["tokens_per_second"]
        ratios["cache_memory_vs_dense"] = dense["cache_mb"] / long["cache_mb"]
    eight = {
        variant: found[Case(SHORT, variant, 8)]["tokens_per_second"]
        for variant in VARIANTS
        if Case(SHORT, variant, 8) in found
    }
    if best in eight and "recompute" in eight:
        ratios["vs_recompute_8"] = eight[best] / eight["recompute"]
    if best in eight and peer:
        ratios["vs_peer_batch8"] = eight[best] / peer
        for variant in ("eager", *PRECISIONS):
            if variant in eight:
                ratios[f"vs_peer_batch8_{variant}"] = eight[variant] / peer
    return ratios


def peer_rate(command: str) -> float:
    """Return the tokens a second that another implementation's command prints."""
    done = subprocess.run(shlex.split(command), check=True, stdout=subprocess.PIPE, text=True)
    rate = json.loads(done.stdout.strip().splitlines()[-1])["image_tokens_per_second"]
    print(f"peer, batch 8: {rate:.4g} tokens a second")
    return rate


def read_arguments() -> argparse.Namespace:
    """Return the options. Raises `UserError` for what cannot be measured, before anything is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="8 and 64 candidates alone, nothing compiled"
    )
    parser.add_argument(
        "--candidates",
        type=int,
        nargs="+",
        metavar="N",
        help="numbers of candidates, for ratios 8 and 64 among them (default 1 8 64 512)",
    )
    parser.add_argument("--peer", default="", help="command line of another implementation")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)  # stream, variant, candidates
    options = parser.parse_args()
    options.candidates = options.candidates or (QUICK_CANDIDATES if options.quick else CANDIDATES)
    if min(options.candidates) < 1:
        raise UserError(f"--candidates {min(options.candidates)}: write numbers of at least 1")
    if options.peer and 8 not in options.candidates:
        raise UserError("--peer is compared at 8 candidates: have 8 among --candidates")
    return options


@command
def main() -> None:
    options = read_arguments()
    if options.peak:
        stream, variant, candidates = options.peak
        print(peak(Case(stream, variant, int(candidates))))
        return
    variants = QUICK_VARIANTS if options.quick else VARIANTS
    types = sorted({type_of(variant) for variant in variants})
    ceilings = Ceilings({name: ceiling(getattr(torch, name)) for name in types}, bandwidth())
    found = measure_all(options.candidates, variants, ceilings, with_peaks=not options.quick)
    peer = peer_rate(options.peer) if options.peer else None
    report(
        ratios_of(found, peer),
        table=[case._asdict() | figures for case, figures in found.items()],
        operations_per_second=ceilings.operations,
        bytes_per_second=ceilings.bandwidth,
    )


if __name__ == "__main__":
    raise SystemExit(main())
