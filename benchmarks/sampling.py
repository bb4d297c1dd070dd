"""Drawing candidates of one caption: image tokens a second, memory, and how near to the floor.

    python -m benchmarks.sampling [--quick] [--peer "COMMAND LINE"]

Width 256, 6 layers in the paper's order, 4 heads of 64, 1,024 codes. Ways: `ours` (caches by
pattern, one text for all candidates), `dense` (every layer caches every position, the text once for
each candidate) and `recompute` (no cache: a full pass a code). Rates are means of the first, the
middle and the last row of the grid, each timed code by code, choice of the code included;
`recompute` is timed on three single codes. `--peer` is the command line of another implementation,
for batch 8 at 64 + 16x16: it must print as its last line a JSON object with
`image_tokens_per_second`.

The floor of a step is the larger of two times: to read the weights and the caches' slots once at
the measured memory bandwidth, and to do the products' operations at the measured rate of a large
product.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import ceiling, interleaved, report
from dalle.cache import Cache, DenseLayerCache, PatternLayerCache
from dalle.generate import decode_one, sample_token
from dalle.transformer import Transformer, TransformerConfig

STREAMS = {"64+16x16": (64, 16), "256+32x32": (256, 32)}
CANDIDATES = (1, 8, 64, 512)
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


def caches(model: Transformer, way: str) -> Cache:
    """Return empty caches of a way."""
    if way == "dense":
        return Cache([DenseLayerCache(model.mask(pattern)) for pattern in model.patterns])
    return model.new_cache()


def cache_bytes(cache: Cache) -> int:
    """Return the bytes that a cache has allocated."""
    stores: list[Tensor | None] = []
    for layer in cache.layers:
        if isinstance(layer, PatternLayerCache):
            stores += [*(layer._text or ()), *(layer._codes or ())]
        elif isinstance(layer, DenseLayerCache):
            stores.append(layer._store)
    return sum(store.nbytes for store in stores if store is not None)


@torch.inference_mode()
def row_times(model: Transformer, way: str, candidates: int, row: int) -> tuple[list[float], int]:
    """Return the seconds of each code of a row, and the bytes of the caches."""
    stream = model.stream
    text = torch.randint(0, model.config.text_vocab, (1, stream.text_length))
    given = torch.randint(0, model.config.image_vocab, (1, row * stream.columns))
    cache = caches(model, way)
    x = torch.cat([model.embed_text(text), model.embed_codes(given)], dim=1)
    logits = model.image_head(model.hidden(x, cache)[:, -1])
    cache = cache.fork(torch.zeros(candidates, dtype=torch.long))
    logits = logits.expand(candidates, -1)
    times = []
    for _ in range(min(stream.columns, stream.image_length - 1 - row * stream.columns)):
        uniforms = torch.rand(candidates)
        start = time.perf_counter()
        logits = decode_one(model, sample_token(logits, uniforms), cache)
        times.append(time.perf_counter() - start)
    return times, cache_bytes(cache)


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
    row_times(model, way, candidates, 0)  # warm
    steps, sizes = [], 0
    for row in rows_of(model):
        times, sizes = row_times(model, way, candidates, row)
        steps.append(statistics.median(times))
    seconds = statistics.mean(steps)
    return {
        "tokens_per_second": candidates / seconds,
        "step_ms": seconds * 1e3,
        "last_row_vs_first": steps[-1] / steps[0],
        "cache_mb": sizes / 1e6,
    }


def bandwidth() -> float:
    """Return the bytes a second that a sum over a large array reads."""
    array = torch.ones(64 * 2**20)
    seconds = interleaved({"sum": lambda: array.sum()}, 5)["sum"]
    return array.nbytes / seconds


def floor_seconds(model: Transformer, candidates: int, rate: float, width: float) -> float:
    """Return the least time of a step at these ceilings: operations and bytes a second."""
    config = model.config
    size = model.image_head.weight.numel()
    size += sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    middle = model.stream.image_length // 2
    read = 0  # slots of a candidate
    for pattern in model.patterns:
        places = model.cache_plan(pattern).reads[middle]
        read += places.stop - places.start if isinstance(places, slice) else len(places)
    text = len(model.patterns) * model.stream.text_inputs
    token = 2 * config.heads * config.head_width
    moved = 4 * (size + token * (candidates * read + text))
    operations = 2 * candidates * (size + token * (read + text))
    return max(moved / width, operations / rate)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="8 and 64 candidates alone")
    parser.add_argument("--peer", default="", help="command line of another implementation")
    options = parser.parse_args()
    rate, width = ceiling(torch.float32), bandwidth()
    counts = (8, 64) if options.quick else CANDIDATES
    table: list[dict[str, object]] = []
    found: dict[tuple[str, str, int], dict[str, float]] = {}
    for stream in STREAMS:
        model = build(stream)
        for candidates in counts:
            for way in ("ours", "dense", "recompute"):
                if way == "recompute" and candidates > 8:
                    continue  # its rate no longer grows
                figures = measure(model, way, candidates)
                if way == "ours":
                    least = floor_seconds(model, candidates, rate, width)
                    figures["floor_share"] = least * 1e3 / figures["step_ms"]
                found[stream, way, candidates] = figures
                table.append({"stream": stream, "way": way, "candidates": candidates, **figures})
                print(
                    f"{stream:<10}{way:<10}{candidates:>4}"
                    + "".join(f"  {name} {value:.4g}" for name, value in figures.items())
                )
    long, many = found["256+32x32", "ours", 64], found["256+32x32", "dense", 64]
    ratios = {
        "vs_dense_cache_64": long["tokens_per_second"] / many["tokens_per_second"],
        "cache_memory_vs_dense": many["cache_mb"] / long["cache_mb"],
        "last_row_vs_first": long["last_row_vs_first"],
        "floor_share_64": long["floor_share"],
        "vs_recompute_8": found["64+16x16", "ours", 8]["tokens_per_second"]
        / found["64+16x16", "recompute", 8]["tokens_per_second"],
    }
    if options.peer:
        done = subprocess.run(
            shlex.split(options.peer), check=True, stdout=subprocess.PIPE, text=True
        )
        peer = json.loads(done.stdout.strip().splitlines()[-1])["image_tokens_per_second"]
        print(f"peer, batch 8: {peer:.4g} tokens a second")
        ratios["vs_peer_batch8"] = found["64+16x16", "ours", 8]["tokens_per_second"] / peer
    report(ratios, table=table, operations_per_second=rate, bytes_per_second=width)


if __name__ == "__main__":
    main()
