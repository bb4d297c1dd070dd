"""Encoding and decoding 256x256 images with the paper's dVAE, ours and OpenAI's package.

    python -m benchmarks.dvae [--quick] [--peer PYTHON]

`--peer` is the Python of an environment that has `DALL-E==0.1` and safetensors; it gets the same
random weights and the same images, and its output is compared with each of ours. Ours are named
by what they do: `plain`, `channels_last`, `compiled` (channels_last, torch.compile) and `bfloat16`
(channels_last, autocast). The ratios take the fastest whose output is the peer's, to 2 % of its
largest value; those that end in `_float32` the fastest that is equal to 1e-3. Beside each stands
what its difference comes to: the share of codes that stay, or grey levels of the image (of 255).
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.measuring import interleaved, report
from dvae.config import DVAEConfig
from dvae.model import DiscreteVAE
from dvae.networks import map_pixels, one_hot, unmap_pixels

TOLERANCES = {"": 2e-2, "_float32": 1e-3}
"""Largest difference, as a share of the largest value, by the ending of a ratio's name."""
Network = Callable[[Tensor], Tensor]
Networks = tuple[Network, Network]
Rows = dict[str, dict[str, float]]
"""By variant: seconds, difference (`off`), what that comes to (`means`), whether it is `taken`."""


def variants(model: DiscreteVAE, quick: bool) -> dict[str, Networks]:
    """Return the encoder and the decoder of each of our variants."""
    plain = (model.encoder, model.decoder)
    fast = DiscreteVAE(model.config).eval().requires_grad_(False)
    fast.load_state_dict(model.state_dict())
    fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def last(network: Network) -> Network:
        return lambda x: network(x.contiguous(memory_format=torch.channels_last))

    def half(network: Network) -> Network:
        def run(x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return last(network)(x).float()

        return run

    found = {"plain": plain, "channels_last": (last(fast.encoder), last(fast.decoder))}
    found["bfloat16"] = (half(fast.encoder), half(fast.decoder))
    if not quick:
        compiled = torch.compile(fast.encoder), torch.compile(fast.decoder)
        found["compiled"] = (last(compiled[0]), last(compiled[1]))
    return found


def difference(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest expected value."""
    return float((got - expected).abs().max() / expected.abs().max())


def meaning(part: str, got: Tensor, expected: Tensor) -> float:
    """Return the share of codes that stay (encode) or the mean change in grey levels (decode)."""
    if part == "encode":
        return float((got.argmax(dim=1) == expected.argmax(dim=1)).float().mean())
    one, other = (unmap_pixels(maps[:, :3].sigmoid()) for maps in (got, expected))
    return 255 * float((one - other).abs().mean())


def measure(
    part: str, networks: Mapping[str, Network], x: Tensor, expected: Tensor, rounds: int
) -> Rows:
    """Return the figures of each variant's encoder, or decoder, on `x`."""
    rows: Rows = {}
    for name, network in networks.items():
        got = network(x)
        rows[name] = {"off": difference(got, expected), "means": meaning(part, got, expected)}
    calls = {name: partial(network, x) for name, network in networks.items()}
    for name, seconds in interleaved(calls, rounds).items():
        rows[name]["seconds"] = seconds
    return rows


def ratios_of(part: str, rows: Rows, peer: float | None) -> dict[str, float]:
    """Return a part's ratios, after printing its figures; `peer` are the package's seconds."""
    ratios = {}
    for suffix, tolerance in TOLERANCES.items():
        equal = {name: row["seconds"] for name, row in rows.items() if row["off"] < tolerance}
        best = min(equal, key=lambda name: equal[name])
        rows[best]["taken"] = True
        ratios[f"{part}_vs_plain{suffix}"] = equal["plain"] / equal[best]
        if peer is not None:
            ratios[f"{part}_vs_openai{suffix}"] = peer / equal[best]
    unit = "of codes stay" if part == "encode" else "grey levels"
    for name, row in rows.items():
        print(
            f"{part} {name:<14}{row['seconds']:8.3f} s, off by {row['off']:.1e}: "
            f"{row['means']:.4f} {unit}{' <- taken' if 'taken' in row else ''}"
        )
    return ratios


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round, nothing compiled")
    parser.add_argument("--peer", default="", help="Python that has the package DALL-E==0.1")
    parser.add_argument("--batch", type=int, default=1, help="images at a time")
    parser.add_argument("--rounds", type=int, default=0, help="timed rounds (default 3; quick 1)")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 3)
    torch.manual_seed(0)
    model = DiscreteVAE(DVAEConfig()).eval().requires_grad_(False)
    mapped = map_pixels(torch.rand(options.batch, 3, 256, 256))
    logits = model.encoder(mapped)
    codes = one_hot(logits.argmax(dim=1), model.vocab_size, torch.float32)
    inputs = {"encode": mapped, "decode": codes}
    expected = {"encode": logits, "decode": model.decoder(codes)}
    peer: dict[str, float] = {}
    if options.peer:
        peer, expected = run_peer(options.peer, model, mapped, rounds)
    encoders, decoders = {}, {}
    for name, (encoder, decoder) in variants(model, options.quick).items():
        encoders[name], decoders[name] = encoder, decoder
    ratios: dict[str, float] = {}
    table: dict[str, Rows] = {}
    for part, networks in (("encode", encoders), ("decode", decoders)):
        table[part] = measure(part, networks, inputs[part], expected[part], rounds)
        ratios |= ratios_of(part, table[part], peer.get(part))
    report(ratios, table=table, peer=peer, batch=options.batch)


def run_peer(
    python: str, model: DiscreteVAE, mapped: Tensor, rounds: int
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the package's seconds and its outputs, by "encode" and "decode"."""
    script = Path(__file__).with_name("openai_dvae_peer.py")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.safetensors" for name in ("weights", "images", "out")]
        save_file(model.state_dict(), paths[0])
        save_file({"mapped": mapped}, paths[1])
        command = [python, str(script), *map(str, paths), str(rounds)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        output = load_file(paths[2])
    seconds = json.loads(done.stdout.strip().splitlines()[-1])
    return seconds, {"encode": output["logits"], "decode": output["maps"]}


if __name__ == "__main__":
    main()
