"""A checkpoint's numbers: reconstruction, held-out losses, and what a checker reads in it."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from corpora.shapes import check, described_scene, example, summarise
from dalle.checkpoint import RERANKER, TOKENIZER, TextToImage, load_text_to_image
from dalle.examples import held_out_examples
from dalle.generate import generate
from dalle.metrics import held_out_losses
from dalle.text import TEXT
from dual_encoder.checkpoint import Ranker, is_dual_encoder, load_dual_encoder
from dual_encoder.examples import held_out_pairs
from dual_encoder.inception import Inception
from dual_encoder.loss import LossConfig
from dual_encoder.metrics import classification, measure_features
from dual_encoder.scores import Interval, Score, choose_held_out, fid, scores
from dvae.checkpoint import load_tokenizer
from dvae.metrics import measure
from dvae.tokenizer import ImageTokenizer
from training.config import merge, read_yaml
from training.data import DataConfig, Pictures, Source, all_pictures, captioned, open_sources
from training.errors import UserError, command
from training.pictures import to_picture, to_tensor


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model", type=Path, help="folder of a text-to-image model, a tokenizer or a dual encoder"
    )
    parser.add_argument(
        "--config", type=Path, help="training config whose held-out data is measured on"
    )
    parser.add_argument("--held-out", help="other held-out data, as the config's held_out_path")
    parser.add_argument("--pictures", type=int, default=1024, help="held-out pictures; 0: all")
    parser.add_argument(
        "--checker", type=int, default=0, help="captions of shapes to draw and check, if any"
    )
    parser.add_argument("--split", default="test", help="split of those: test or compositional")
    parser.add_argument(
        "--scores", type=int, default=0, help="held-out captions to draw and score, if any"
    )
    parser.add_argument(
        "--ranker", type=Path, help="dual encoder that scores (default: the model's reranker)"
    )
    parser.add_argument("--inception", type=Path, help="Inception weights: also measure FID")
    parser.add_argument("--resamples", type=int, default=1000, help="of the scores' intervals")
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawn pictures")
    parser.add_argument("--temperature", type=float, default=1.0, help="1 is the paper's")
    parser.add_argument("--top-p", type=float, default=1.0, help="keep the likeliest share p")
    parser.add_argument("--guidance", type=float, default=1.0, help="1 is the paper's")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    return parser.parse_args(argv)


@command
def main() -> None:
    options = parse_arguments()
    if is_dual_encoder(options.model):
        report(options, on_pairs(options), {})
        return
    model: TextToImage | None = None
    if (options.model / TOKENIZER).is_dir() and (options.model / TEXT).exists():
        model = load_text_to_image(options.model)
        tokenizer = model.tokenizer
    else:
        tokenizer, _ = load_tokenizer(options.model)
    scorers = load_scorers(options, model)
    figures: dict[str, float] = {}
    scored: dict[str, Score] = {}
    if options.config:
        figures |= on_held_out(options, model, tokenizer)
    if options.checker:
        figures |= checker_on_reconstructions(tokenizer, options)
        if model:
            figures |= checker_on_samples(model, options)
    if scorers and model:
        scored = on_scores(options, model, *scorers)
    if not figures:
        raise UserError("nothing to measure: give --config, --checker or both")
    report(options, figures, scored)


def report(
    options: argparse.Namespace, figures: dict[str, float], scored: dict[str, Score]
) -> None:
    """Print figures and scores, and write them to --json."""
    width = max(map(len, [*figures, *scored]))
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:.4f}")
    for name, score in scored.items():
        print(f"{name:<{width}}  {written(score.drawn)}  real pictures {written(score.real)}")
    if options.json:
        record: dict[str, object] = dict(figures)
        if scored:
            record["scores"] = {
                name: {"drawn": score.drawn._asdict(), "real": score.real._asdict()}
                for name, score in scored.items()
            }
        options.json.write_text(json.dumps(record, indent=1), encoding="utf-8")


def written(figure: Interval) -> str:
    """Return a figure with its interval."""
    return f"{figure.value:.4f} [{figure.low:.4f}, {figure.high:.4f}]"


def load_scorers(
    options: argparse.Namespace, model: TextToImage | None
) -> tuple[Ranker, Inception | None] | None:
    """Return what scores are measured with, before anything is drawn, or None without --scores.

    Raises `UserError` for scores that cannot be had.
    """
    if not options.scores:
        if options.inception or options.ranker:
            raise UserError("--ranker and --inception are for scores: give --scores N as well")
        return None
    if options.scores < 0 or options.resamples < 1:
        raise UserError("--scores must not be negative, and --resamples at least 1")
    if not options.config or model is None:
        raise UserError(
            "--scores needs --config, for its held-out captions, and a model that draws"
        )
    folder = options.ranker or options.model / RERANKER
    if not folder.is_dir():
        raise UserError(f"no dual encoder {folder} to score with: name one with --ranker")
    inception = Inception(options.inception) if options.inception else None
    return load_dual_encoder(folder), inception


def open_held_out(options: argparse.Namespace) -> Source:
    """Return the held-out pictures of a config."""
    data: DataConfig = merge(
        DataConfig(), read_yaml(options.config).get("data"), source=str(options.config)
    )
    if options.held_out:
        data.held_out_path = options.held_out
    return open_sources(data)[1]


def on_pairs(options: argparse.Namespace) -> dict[str, float]:
    """Measure how a dual encoder finds and tells apart a config's held-out pairs."""
    if not options.config:
        raise UserError("a dual encoder is measured on a config's held-out pairs: give --config")
    if options.checker or options.scores:
        raise UserError("--checker and --scores are for models that draw")
    ranker = load_dual_encoder(options.model)
    size = ranker.model.config.image_size
    pairs = held_out_pairs(captioned(open_held_out(options)), size, options.pictures)
    words = ranker.text_features(pairs.captions)
    images = ranker.image_features(pairs.pictures)
    figures = measure_features(ranker, images, words, pairs, LossConfig())
    return figures | {"classification_of_100": classification(images, words, pairs.captions)}


def on_held_out(
    options: argparse.Namespace, model: TextToImage | None, tokenizer: ImageTokenizer
) -> dict[str, float]:
    """Measure reconstructions, and the transformer's losses, on a config's held-out pictures."""
    held_out = open_held_out(options)
    pictures = all_pictures(Pictures(held_out, tokenizer.image_size, None), options.pictures)
    figures = measure(tokenizer, pictures)
    if model:
        length = model.transformer.config.text_length
        source = captioned(held_out)
        examples = held_out_examples(source, model.text, length, tokenizer, options.pictures)
        figures |= held_out_losses(model.transformer, *examples)
    return figures


def on_scores(
    options: argparse.Namespace, model: TextToImage, ranker: Ranker, inception: Inception | None
) -> dict[str, Score]:
    """Draw held-out captions and score the pictures, beside the real ones."""
    source = captioned(open_held_out(options))
    held_out = choose_held_out(source, options.scores, model.tokenizer.image_size)
    drawn = draw(model, held_out.captions, options)
    found = scores(ranker, drawn, held_out, options.resamples)
    if inception:
        found["fid"] = fid(inception, drawn, held_out, options.resamples)
    count = len(held_out.reference)
    print(
        f"scores of {len(drawn)} captions, Fréchet distances between {count} and {count} pictures; "
        "[95 % interval]"
    )
    return found


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
    results = list(map(check, draw(model, captions, options), captions))
    return {f"sample_{k}": v for k, v in summarise(results).items()}


def draw(
    model: TextToImage, captions: Sequence[str], options: argparse.Namespace
) -> list[Image.Image]:
    """Draw one picture for each caption, each with a seed of its own."""
    length = model.transformer.config.text_length
    pictures = []
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
        pictures += model.pictures(drawn.codes)
    return pictures


if __name__ == "__main__":
    raise SystemExit(main())
