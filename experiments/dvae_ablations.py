"""What each departure from the paper's dVAE recipe is worth, in short runs on the emoji corpus.

    python -m experiments.dvae_ablations --out runs/ablations --updates 200

Each variant is the emoji config, with a smaller network, and one thing changed (or the paper's
recipe, with one thing added), trained by train_dvae.py for the same number of updates with its
schedules shortened to match. Prints a table in Markdown and writes it beside the runs; finished
runs are not repeated.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from dalle_base.common.files import write_text

SMALL = ["model.network.bottleneck=4", "model.network.decoder_blocks=[]"]
PAPER = [
    *("model.objective.likelihood=logit_laplace", "model.objective.scale=learned"),
    *("model.objective.entropy_weight=0", "model.objective.kl_weight=6.6"),
    *("model.objective.logit_scale=1", "model.network.norm=none", "model.network.attention=false"),
    *("model.network.stem_stride=1", "model.network.groups=4", "model.network.width=32"),
    *("model.objective.confidence_weight=0", "model.objective.temperature_end=0.0625"),
]
LAPLACE = ["model.objective.likelihood=logit_laplace", "model.objective.constant_ln_b=-1"]
LEARNED = [LAPLACE[0], "model.objective.scale=learned"]

VARIANTS: dict[str, list[str]] = {
    "emoji config": [],
    "logit-Laplace, constant scale": LAPLACE,
    "logit-Laplace, learned scale": LEARNED,
    "logit-Laplace, scale learned after half": [
        *LEARNED,
        "model.objective.constant_ln_b=-1",
        "model.objective.scale_learned_after={half}",
    ],
    "logit-Laplace, learned scale, beta-NLL 1": [*LEARNED, "model.objective.beta_nll=1"],
    "straight-through samples": ["model.objective.straight_through=true"],
    "no entropy term": ["model.objective.entropy_weight=0"],
    "logits not multiplied": ["model.objective.logit_scale=1"],
    "no normalisation": ["model.network.norm=none"],
    "no attention over the grid": ["model.network.attention=false"],
    "neither of the two": ["model.network.norm=none", "model.network.attention=false"],
    "8 groups in the normalisation": ["model.network.norm_groups=8"],
    "one group in the normalisation": ["model.network.norm_groups=1"],
    "no confidence term": ["model.objective.confidence_weight=0"],
    "temperature to 1/16": ["model.objective.temperature_end=0.0625"],
    "half the step size": ["optimiser.lr=1e-3"],
    "twice the blocks": ["model.network.blocks=2"],
    "bottleneck of 2": ["model.network.bottleneck=2"],
    "more decoder blocks": ["model.network.decoder_blocks=[1,2,3]"],
    "images cropped as in the paper": ["data.augment.crop=true", "data.augment.border=0.05"],
    "512 codes": ["model.codebook_size=512"],
    "2048 codes": ["model.codebook_size=2048"],
    "paper's recipe, short schedules": PAPER,
    "paper's recipe + entropy term": [*PAPER, "model.objective.entropy_weight=0.15"],
}


def run(name: str, overrides: list[str], out: Path, updates: int) -> dict[str, float]:
    """Train one variant, unless it is done already, and return its last measurement."""
    folder = out / "".join(c if c.isalnum() else "-" for c in name)
    settings = {"half": updates // 2}
    command = [sys.executable, "train_dvae.py", "--config", "configs/dvae/emoji.yaml"]
    command += [text.format(**settings) for text in (*SMALL, *overrides)]
    command += [f"run.out={folder}", f"run.updates={updates}", f"run.evaluate_every={updates}"]
    command += [f"run.save_every={updates}", "run.compile=false", "run.batch_size=16"]
    command += [f"model.objective.temperature_updates={updates}", "held_out_pictures=256"]
    command += [f"model.objective.kl_updates={updates}", f"optimiser.decay_updates={updates}"]
    subprocess.run(command, check=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return next(line for line in reversed(lines) if "psnr" in line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"), help="folder of runs")
    parser.add_argument("--updates", type=int, default=200, help="updates of each variant")
    parser.add_argument("--only", nargs="*", help="names of the variants to run; default: all")
    options = parser.parse_args()
    rows = [
        "| variant | PSNR, dB | perplexity, % of codes | codes in use, % |",
        "|---|---|---|---|",
    ]
    for name in options.only or VARIANTS:
        figures = run(name, VARIANTS[name], options.out, options.updates)
        share, used = 100 * figures["perplexity_share"], 100 * figures["codes_used"]
        rows.append(f"| {name} | {figures['psnr']:.2f} | {share:.0f} | {used:.0f} |")
        table = "\n".join(rows) + "\n"
        write_text(options.out / "table.md", table)
    print(table)


if __name__ == "__main__":
    main()
