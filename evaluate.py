"""A checkpoint's numbers: reconstruction, held-out losses, and what a checker reads in it."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from corpora.shapes import check, described_scene, example, summarise
from dalle.checkpoint import TextToImage, load_text_to_image
from dalle.examples import held_out_examples
from dalle.generate import generate
from dalle.metrics import held_out_losses
from dvae.checkpoint import load_tokenizer
from dvae.metrics import measure
from dvae.tokenizer import ImageTokenizer
from training.config import merge, read_yaml
from training.data import DataConfig, Pictures, all_pictures, captioned, open_sources
from training.errors import UserError, command
from training.pictures import to_picture, to_tensor


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a text-to-image model's or a tokenizer's folder")
    parser.add_argument(
        "--config", type=Path, help="training config whose held-out data is measured on"
    )
    parser.add_argument("--held-out", help="other held-out data, as the config's held_out_path")
    parser.add_argument("--pictures", type=int, default=1024, help="held-out pictures; 0: all")
    parser.add_argument(
        "--checker", type=int, default=0, help="captions of shapes to draw and check, if any"
    )
    parser.add_argument("--split", default="test", help="split of those: test or compositional")
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawn pictures")
    parser.add_argument("--temperature", type=float, default=1.0, help="1 is the paper's")
    parser.add_argument("--top-p", type=float, default=1.0, help="keep the likeliest share p")
    parser.add_argument("--guidance", type=float, default=1.0, help="1 is the paper's")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    return parser.parse_args(argv)


@command
def main() -> None:
    options = parse_arguments()
    model: TextToImage | None = None
    if (options.model / "tokenizer").is_dir() and (options.model / "text.json").exists():
        model = load_text_to_image(options.model)
        tokenizer = model.tokenizer
    else:
        tokenizer, _ = load_tokenizer(options.model)
    figures: dict[str, float] = {}
    if options.config:
        figures |= on_held_out(options, model, tokenizer)
    if options.checker:
        figures |= checker_on_reconstructions(tokenizer, options)
        if model:
            figures |= checker_on_samples(model, options)
    if not figures:
        raise UserError("nothing to measure: give --config, --checker or both")
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:.4f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def on_held_out(
    options: argparse.Namespace, model: TextToImage | None, tokenizer: ImageTokenizer
) -> dict[str, float]:
    """Measure reconstructions, and the transformer's losses, on a config's held-out pictures."""
    data: DataConfig = merge(
        DataConfig(), read_yaml(options.config).get("data"), source=str(options.config)
    )
    if options.held_out:
        data.held_out_path = options.held_out
    _, held_out = open_sources(data)
    pictures = all_pictures(Pictures(held_out, tokenizer.image_size, None), options.pictures)
    figures = measure(tokenizer, pictures)
    if model:
        length = model.transformer.config.text_length
        source = captioned(held_out)
        examples = held_out_examples(source, model.text, length, tokenizer, options.pictures)
        figures |= held_out_losses(model.transformer, *examples)
    return figures


def checker_on_reconstructions(
    tokenizer: ImageTokenizer, options: argparse.Namespace
) -> dict[str, float]:
    """Check tokenizer reconstructions of scenes against their captions: the checker's ceiling."""
    results = []
    for first in range(0, options.checker, 50):
        scenes = [
            example(options.split, 1, i) for i in range(first, min(first + 50, options.checker))
        ]
        pixels = [np.asarray(image).transpose(2, 0, 1) for image, _ in scenes]
        rebuilt = tokenizer.reconstruct(to_tensor(pixels))
        results += [
            check(to_picture(image), caption)
            for image, (_, caption) in zip(rebuilt, scenes, strict=True)
        ]
    return {f"reconstruction_{k}": v for k, v in summarise(results).items()}


def checker_on_samples(model: TextToImage, options: argparse.Namespace) -> dict[str, float]:
    """Draw one picture for each held-out caption and check it."""
    captions = [described_scene(options.split, 1, i)[1] for i in range(options.checker)]
    length = model.transformer.config.text_length
    results = []
    for first in tqdm(range(0, len(captions), 50), "drawing", dynamic_ncols=True):
        batch = captions[first : first + 50]
        drawn = generate(
            model.transformer,
            model.text.encode(batch, length),
            seed=[options.seed + first + i for i in range(len(batch))],
            temperature=options.temperature,
            top_p=options.top_p,
            guidance_scale=options.guidance,
        )
        results += map(check, model.pictures(drawn.codes), batch)
    return {f"sample_{k}": v for k, v in summarise(results).items()}


if __name__ == "__main__":
    raise SystemExit(main())
