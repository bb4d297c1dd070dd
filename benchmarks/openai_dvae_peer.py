"""Run OpenAI's dVAE package (`DALL-E==0.1`) on given weights and images; see benchmarks/dvae.py.

Run by that package's own Python, so this file imports nothing of ours:

    PYTHON openai_dvae_peer.py WEIGHTS.safetensors IMAGES.safetensors OUT.safetensors ROUNDS
"""

import json
import statistics
import sys
import time

import torch
from dall_e.decoder import Decoder  # type: ignore[import-not-found]
from dall_e.encoder import Encoder  # type: ignore[import-not-found]
from safetensors.torch import load_file, save_file


def main() -> None:
    weights, images, out, rounds = sys.argv[1:]
    stored = load_file(weights)
    networks = {"encoder": Encoder(), "decoder": Decoder()}
    for name, network in networks.items():
        prefix = name + "."
        own = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
        network.load_state_dict(own)
        network.requires_grad_(False).eval()
    mapped = load_file(images)["mapped"]
    times: dict[str, list[float]] = {"encode": [], "decode": []}
    with torch.inference_mode():
        for _ in range(int(rounds) + 1):
            start = time.perf_counter()
            logits = networks["encoder"](mapped)
            times["encode"].append(time.perf_counter() - start)
            codes = torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1])
            codes = codes.permute(0, 3, 1, 2).float()
            start = time.perf_counter()
            maps = networks["decoder"](codes)
            times["decode"].append(time.perf_counter() - start)
    save_file({"logits": logits.contiguous(), "maps": maps.contiguous()}, out)
    print(json.dumps({name: statistics.median(values[1:]) for name, values in times.items()}))


if __name__ == "__main__":
    main()
