"""Drawing codes: image tokens a second, memory, and how near a step is to the machine's floor.

    python -m benchmarks.sampling [--quick] [--peer "COMMAND LINE"]

The model is of width 256, 6 layers, 4 heads of 64, the paper's order of patterns, in streams of 64
text tokens and 16x16 codes and of 256 and 32x32, for 1, 8, 64 and 512 candidates of a caption.
`eager` is ours as it comes, `compiled` the same step compiled; `bfloat16` and `int8`, compiled with
such weights, are measured for 8 and 64 in the shorter stream. The baselines are our own: `dense`
(every layer caches every position, the text once for each candidate) and `recompute` (no cache: a
full pass a code). Rates are means of the first, the middle and the last row of the grid, each timed
code by code, choice of the code included; `recompute` is timed on three single codes. `peak_mb` is
how far drawing raises the process's memory. `--peer` is the command line of another implementation,
for batch 8 at 64 + 16x16: it must print as its last line a JSON object with
`image_tokens_per_second`.

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
from typing import Any

import torch

from benchmarks.measuring import ceiling, in_new_process, interleaved, memory_of, report
from dalle.cache import Cache, DenseLayerCache
from dalle.compiled import compile_step
from dalle.decode import Step, decode_one, eager_step, prefill, slots_of
from dalle.precision import in_precision
from dalle.sampling import sample_token
from dalle.transformer import Transformer, TransformerConfig

STREAMS = {"64+16x16": (64, 16), "256+32x32": (256, 32)}
CANDIDATES = (1, 8, 64, 512)
PRECISIONS = {"bfloat16": 2, "int8": 1}
"""Ways with other weights than float32, and the bytes of each."""
SHORT = [("64+16x16", 8), ("64+16x16", 64)]
"""Where they are measured."""
WAYS = ("eager", "compiled", *PRECISIONS, "dense", "recompute")
SIZES: dict[str, Any] = {
    **{"text_vocab": 4096, "image_vocab": 1024, "depth": 6},
    **{"heads": 4, "head_width": 64, "d_model": 256},
}


def build(stream: str) -> Transformer:
    """Return the benchmark's model for a stream, with random weights."""
    torch.manual_seed(0)
    text, side = STREAMS[stream]
    config = TransformerConfig(**SIZES, text_length=text, rows=side, columns=side)
    return Transformer(config).eval().requires_grad_(False)


class Drawing:
    """Candidates of a caption, in the middle of being drawn."""

    def __init__(self, model: Transformer, step: Step | None, candidates: int, row: int) -> None:
        """`step` is None for dense caches; the codes above `row` are given."""
        stream = model.stream
        text = torch.randint(0, model.config.text_vocab, (1, stream.text_length))
        given = torch.randint(0, model.config.image_vocab, (1, row * stream.columns))
        dense = Cache([DenseLayerCache(model.mask(pattern)) for pattern in model.patterns])
        logits, cache = prefill(model, text, given, None if step else dense)
        self.model, self.step, self.candidates = model, step, candidates
        self.cache = cache.repeat(candidates)
        self.stores = slots_of(self.cache)
        self.logits = logits.expand(candidates, -1)
        self.code = row * stream.columns

    def __call__(self) -> None:
        """Draw a code of each candidate, and decode it."""
        codes = sample_token(self.logits, torch.rand(self.candidates))
        if self.step:
            self.logits = self.step(codes, torch.tensor([self.code]), self.stores)
        else:
            self.logits = decode_one(self.model, codes, self.cache)
        self.code += 1


@torch.inference_mode()
def row_times(model: Transformer, step: Step | None, candidates: int, row: int) -> list[float]:
    """Return the seconds of each code of a row."""
    drawing = Drawing(model, step, candidates, row)
    times = []
    for _ in range(min(model.stream.columns, model.stream.image_length - 1 - drawing.code)):
        start = time.perf_counter()
        drawing()
        times.append(time.perf_counter() - start)
    return times


@torch.inference_mode()
def peak(stream: str, way: str, candidates: int) -> float:
    """Return the MB by which drawing raises the memory of this process, which has done no other."""
    model = build(stream)

    def few() -> None:
        step = None if way == "dense" else eager_step(model)
        drawing = Drawing(model, step, candidates, model.stream.rows - 1)
        for _ in range(4):
            drawing()

    return memory_of(few)


@torch.inference_mode()
def recompute_times(model: Transformer, candidates: int) -> list[float]:
    """Return the seconds of one code by full passes, at the first, the middle and the last row."""
    stream, times = model.stream, []
    text = torch.randint(0, model.config.text_vocab, (candidates, stream.text_length))
    for row in rows_of(model):
        codes = torch.randint(0, model.config.image_vocab, (candidates, row * stream.columns))
        start = time.perf_counter()
        x = torch.cat([model.embed_text(text), model.embed_codes(codes)], dim=1)
        model.image_head(model.hidden(x)[:, -1])
        times.append(time.perf_counter() - start)
    return times


def rows_of(model: Transformer) -> list[int]:
    """Return the first, the middle and the last row of a model's grid."""
    rows = model.stream.rows
    return [0, rows // 2, rows - 1]


def measure(model: Transformer, way: str, candidates: int) -> dict[str, float]:
    """Return a way's figures for some candidates."""
    if way == "recompute":
        seconds = statistics.mean(recompute_times(model, candidates))
        return {"tokens_per_second": candidates / seconds, "step_ms": seconds * 1e3}
    step: Step | None = None
    if way == "eager":
        step = eager_step(model)
    elif way != "dense":
        torch._dynamo.reset()  # or it would stop compiling after a few shapes
        step = compile_step(model)
    start = time.perf_counter()
    row_times(model, step, candidates, 0)  # warm, or compiled
    first = time.perf_counter() - start
    steps = [statistics.median(row_times(model, step, candidates, row)) for row in rows_of(model)]
    seconds = statistics.mean(steps)
    return {
        "tokens_per_second": candidates / seconds,
        "step_ms": seconds * 1e3,
        "last_row_vs_first": steps[-1] / steps[0],
        "cache_mb": Drawing(model, step, candidates, 0).cache.nbytes / 1e6,
        "first_row_s": first,
    }


def bandwidth() -> float:
    """Return the bytes a second that a sum over a large array reads."""
    array = torch.ones(64 * 2**20)
    seconds = interleaved({"sum": lambda: array.sum()}, 5)["sum"]
    return array.nbytes / seconds


def floor_seconds(
    model: Transformer, candidates: int, weight_bytes: int, rate: float, width: float
) -> float:
    """Return the least time of a step at these ceilings: operations and bytes a second."""
    config = model.config
    size = model.image_head.weight.numel()
    size += sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    middle = model.stream.image_length // 2
    plans = [model.cache_plan(pattern) for pattern in model.patterns]
    read = sum(int((plan.bias[middle] == 0).sum()) for plan in plans)  # slots of a candidate
    text = len(model.patterns) * model.stream.text_inputs
    token = 2 * config.heads * config.head_width
    moved = weight_bytes * size + max(2, weight_bytes) * token * (candidates * read + text)
    operations = 2 * candidates * (size + token * (read + text))
    return max(moved / width, operations / rate)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="8 and 64 candidates alone")
    parser.add_argument("--peer", default="", help="command line of another implementation")
    parser.add_argument(
        "--candidates", type=int, nargs="+", default=CANDIDATES, help="counts, 8 and 64 among them"
    )
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)  # stream, way, candidates
    options = parser.parse_args()
    if options.peak:
        print(peak(options.peak[0], options.peak[1], int(options.peak[2])))
        return
    rates = {name: ceiling(getattr(torch, name)) for name in ("float32", "bfloat16")}
    width = bandwidth()
    counts = (8, 64) if options.quick else tuple(options.candidates)
    ways = ("eager", "dense", "recompute") if options.quick else WAYS
    table: list[dict[str, object]] = []
    found: dict[tuple[str, str, int], dict[str, float]] = {}
    for stream in STREAMS:
        model = build(stream)
        models = {way: in_precision(model, way) for way in PRECISIONS if way in ways}
        for candidates in counts:
            for way in ways:
                if way == "recompute" and candidates > 8:
                    continue  # its rate no longer grows
                if way in PRECISIONS and (stream, candidates) not in SHORT:
                    continue  # half a minute of compiling each
                figures = measure(models.get(way, model), way, candidates)
                if way not in ("dense", "recompute"):
                    rate = rates["bfloat16" if way in PRECISIONS else "float32"]
                    least = floor_seconds(model, candidates, PRECISIONS.get(way, 4), rate, width)
                    figures["floor_share"] = least * 1e3 / figures["step_ms"]
                if way in ("eager", "dense") and not options.quick:
                    arguments = ("--peak", stream, way, candidates)
                    figures["peak_mb"] = in_new_process("benchmarks.sampling", *arguments)
                found[stream, way, candidates] = figures
                table.append({"stream": stream, "way": way, "candidates": candidates, **figures})
                print(
                    f"{stream:<10}{way:<10}{candidates:>4}"
                    + "".join(f"  {name} {value:.4g}" for name, value in figures.items()),
                    flush=True,
                )
    best = "eager" if options.quick else "compiled"  # in float32, as the baselines
    long, many = found["256+32x32", best, 64], found["256+32x32", "dense", 64]
    ratios = {
        "vs_dense_cache_64": long["tokens_per_second"] / many["tokens_per_second"],
        "cache_memory_vs_dense": many["cache_mb"] / long["cache_mb"],
        "last_row_vs_first": long["last_row_vs_first"],
        "floor_share_64": long["floor_share"],
    }
    eight = {way: found["64+16x16", way, 8]["tokens_per_second"] for way in ways}
    ratios["vs_recompute_8"] = eight[best] / eight["recompute"]
    if options.peer:
        done = subprocess.run(
            shlex.split(options.peer), check=True, stdout=subprocess.PIPE, text=True
        )
        peer = json.loads(done.stdout.strip().splitlines()[-1])["image_tokens_per_second"]
        print(f"peer, batch 8: {peer:.4g} tokens a second")
        ratios["vs_peer_batch8"] = eight[best] / peer
        for way in set(ways) & {"eager", *PRECISIONS}:
            ratios[f"vs_peer_batch8_{way}"] = eight[way] / peer
    report(ratios, table=table, operations_per_second=rates, bytes_per_second=width)


if __name__ == "__main__":
    main()
