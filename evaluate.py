"""A checkpoint's figures: reconstructions, held-out losses, exact match, scores of samples."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dalle.config import Sampling
from dalle_base.common.arguments import add_device
from dalle_base.common.errors import UserError, command
from dalle_base.common.report import write_json
from dalle_base.data.config import PathConfig
from dalle_base.data.sources import data_of

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from dalle.text_to_image import TextToImage
    from dalle_base.data.shapes.words import Split
    from dalle_base.data.sources.base import Source
    from dalle_evaluation.inception import Inception
    from dalle_evaluation.intervals import Interval, Score
    from dual_encoder.ranker import Ranker
    from dvae.tokenizer import ImageTokenizer

TOGETHER = 50
"""Captions sampled, or scenes rebuilt, at a time."""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model", type=Path, help="folder of a text-to-image model, a tokenizer or a dual encoder"
    )
    parser.add_argument(
        "--config", type=Path, help="training config whose held-out data is measured on"
    )
    parser.add_argument("--held-out", help="other held-out data, as the config's held_out_path")
    parser.add_argument(
        "--images", "--pictures", type=int, default=1024, help="held-out images; 0: all"
    )
    parser.add_argument(
        "--checker", type=int, default=0, help="captions of shapes to sample and check, if any"
    )
    parser.add_argument(
        "--split",
        choices=("train", "test", "compositional"),
        default="test",
        help="split of those (default: %(default)s)",
    )
    parser.add_argument(
        "--scores", type=int, default=0, help="held-out captions to sample and score, if any"
    )
    parser.add_argument(
        "--ranker", type=Path, help="dual encoder that scores (default: the model's reranker)"
    )
    parser.add_argument("--inception", type=Path, help="Inception weights: also measure FID")
    parser.add_argument("--resamples", type=int, default=1000, help="of the scores' intervals")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampled images")
    parser.add_argument("--temperature", type=float, default=1.0, help="1 is the paper's")
    parser.add_argument("--top-p", type=float, default=1.0, help="keep the likeliest share p")
    parser.add_argument("--guidance", type=float, default=1.0, help="1 is the paper's")
    add_device(parser)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args(argv)


@command
def main() -> None:
    options = parse_arguments()
    sampling = Sampling(
        seed=options.seed,
        temperature=options.temperature,
        top_p=options.top_p,
        guidance_scale=options.guidance,
        batch_size=TOGETHER,
    )
    from dalle_base.common.device import announce, choose_device, enough_memory
    from dual_encoder.checkpoint import is_dual_encoder

    device = choose_device(options.device)
    announce(device)
    with enough_memory("use --device cpu"):
        if is_dual_encoder(options.model):
            report(options.json, on_pairs(options, device), {})
            return
        figures, scored = measure_all(options, sampling, device)
    if not figures:
        raise UserError("nothing to measure: give --config, --checker or both")
    report(options.json, figures, scored)


def measure_all(
    options: argparse.Namespace, sampling: Sampling, device: "torch.device"
) -> "tuple[dict[str, float], dict[str, Score]]":
    """Return what is asked for of a tokenizer or a text-to-image model: figures, and scores."""
    from dalle.checkpoint import TOKENIZER, load_text_to_image
    from dalle_base.data.text import TEXT
    from dvae.checkpoint import load_tokenizer

    model: TextToImage | None = None
    if (options.model / TOKENIZER).is_dir() and (options.model / TEXT).exists():
        model = load_text_to_image(options.model, device=device)
        tokenizer = model.tokenizer
    else:
        tokenizer = load_tokenizer(options.model)[0].to(device)
    scorers = load_scorers(options, model, device)
    figures: dict[str, float] = {}
    scored: dict[str, Score] = {}
    if options.config:
        held_out = open_held_out(options)
        figures |= on_held_out(held_out, options.images, model, tokenizer)
    if options.checker:
        figures |= exact_match_of_reconstructions(tokenizer, options.split, options.checker)
        if model:
            figures |= exact_match_of_samples(model, sampling, options.split, options.checker)
    if scorers and model:
        scored = on_scores(options, sampling, model, *scorers)
    return figures, scored


def report(path: Path | None, figures: dict[str, float], scored: "dict[str, Score]") -> None:
    """Print figures and scores, and write them to a file if there is one."""
    width = max(map(len, [*figures, *scored]))
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:.4f}")
    for name, score in scored.items():
        print(f"{name:<{width}}  {written(score.sampled)}  real images {written(score.real)}")
    if path:
        record: dict[str, object] = dict(figures)
        if scored:
            record["scores"] = {
                name: {"drawn": score.sampled._asdict(), "real": score.real._asdict()}
                for name, score in scored.items()
            }
        write_json(path, record)


def written(figure: "Interval") -> str:
    """Return a figure with its interval."""
    return f"{figure.value:.4f} [{figure.low:.4f}, {figure.high:.4f}]"


def load_scorers(
    options: argparse.Namespace, model: "TextToImage | None", device: "torch.device"
) -> "tuple[Ranker, Inception | None] | None":
    """Return what scores are measured with, before anything is sampled, or None without --scores.

    Raises `UserError` for scores that cannot be had.
    """
    from dalle.checkpoint import RERANKER
    from dalle_evaluation.inception import Inception
    from dual_encoder.checkpoint import load_dual_encoder

    if not options.scores:
        if options.inception or options.ranker:
            raise UserError("--ranker and --inception are for scores: give --scores N as well")
        return None
    if options.scores < 0 or options.resamples < 1:
        raise UserError("--scores must not be negative, and --resamples at least 1")
    if not options.config or model is None:
        raise UserError(
            "--scores needs --config, for its held-out captions, and a text-to-image model"
        )
    folder = options.ranker or options.model / RERANKER
    if not folder.is_dir():
        raise UserError(f"no dual encoder {folder} to score with: name one with --ranker")
    inception = Inception(options.inception) if options.inception else None
    return load_dual_encoder(folder).to(device), inception


def open_held_out(options: argparse.Namespace) -> "Source":
    """Return the held-out images of a config."""
    from dalle_base.data.sources import open_sources

    data = data_of(options.config)
    if options.held_out:
        if not isinstance(data, PathConfig):
            raise UserError(
                f"--held-out is for data with a path, not for data.source={data.source}"
            )
        data.held_out_path = options.held_out
    return open_sources(data)[1]


def on_pairs(options: argparse.Namespace, device: "torch.device") -> dict[str, float]:
    """Measure how a dual encoder finds and tells apart a config's held-out pairs."""
    from dalle_base.data.sources.base import captioned
    from dual_encoder.checkpoint import load_dual_encoder
    from dual_encoder.config import LossConfig
    from dual_encoder.examples import held_out_pairs
    from dual_encoder.metrics import classification, measure_features

    if not options.config:
        raise UserError("a dual encoder is measured on a config's held-out pairs: give --config")
    if options.checker or options.scores:
        raise UserError("--checker and --scores are for text-to-image models")
    ranker = load_dual_encoder(options.model).to(device)
    size = ranker.model.config.image_size
    pairs = held_out_pairs(captioned(open_held_out(options)), size, options.images)
    text = ranker.text_features(pairs.captions)
    images = ranker.image_features(pairs.images)
    figures = measure_features(ranker, images, text, pairs, LossConfig())
    return figures | {"classification_of_100": classification(images, text, pairs.captions)}


def on_held_out(
    held_out: "Source", limit: int, model: "TextToImage | None", tokenizer: "ImageTokenizer"
) -> dict[str, float]:
    """Measure reconstructions, and the transformer's losses, on held-out images."""
    from dalle.examples import held_out_examples
    from dalle.metrics import held_out_losses
    from dalle_base.data.batches import ImageDataset, all_images
    from dalle_base.data.sources.base import captioned
    from dvae.metrics import measure

    figures = measure(
        tokenizer, all_images(ImageDataset(held_out, tokenizer.image_size, None), limit)
    )
    if model:
        length = model.transformer.config.text_length
        source = captioned(held_out)
        examples = held_out_examples(source, model.text_tokenizer, length, tokenizer, limit)
        figures |= held_out_losses(model.transformer, *examples)
    return figures


def on_scores(
    options: argparse.Namespace,
    sampling: Sampling,
    model: "TextToImage",
    ranker: "Ranker",
    inception: "Inception | None",
) -> "dict[str, Score]":
    """Sample images of held-out captions and score them, beside the real ones."""
    from dalle_base.data.sources.base import captioned
    from dalle_evaluation.scores import choose_held_out, fid, scores

    source = captioned(open_held_out(options))
    held_out = choose_held_out(source, options.scores, model.tokenizer.image_size)
    images = sample(model, held_out.captions, sampling)
    found = scores(ranker, images, held_out, options.resamples)
    if inception:
        found["fid"] = fid(inception, images, held_out, options.resamples)
    count = len(held_out.reference)
    print(
        f"scores of {len(images)} captions, Fréchet distances between {count} and {count} images; "
        "[95 % interval]"
    )
    return found


def exact_match_of_reconstructions(
    tokenizer: "ImageTokenizer", split: "Split", count: int
) -> dict[str, float]:
    """Check tokenizer reconstructions of scenes against their captions: the checker's ceiling."""
    from dalle_base.common.images import to_array, to_image, to_tensor
    from dalle_base.data.shapes import check, example, summarise

    device, results = next(tokenizer.parameters()).device, []
    for first in range(0, count, TOGETHER):
        scenes = [example(split, 1, i) for i in range(first, min(first + TOGETHER, count))]
        pixels = to_tensor([to_array(image) for image, _ in scenes])
        rebuilt = tokenizer.reconstruct(pixels.to(device))
        results += [
            check(to_image(image), caption)
            for image, (_, caption) in zip(rebuilt, scenes, strict=True)
        ]
    return {f"reconstruction_{k}": v for k, v in summarise(results).items()}


def exact_match_of_samples(
    model: "TextToImage", sampling: Sampling, split: "Split", count: int
) -> dict[str, float]:
    """Sample one image for each held-out caption and check it."""
    from dalle_base.data.shapes import check, described_scene, summarise

    captions = [described_scene(split, 1, i)[1] for i in range(count)]
    results = list(map(check, sample(model, captions, sampling), captions))
    return {f"sample_{k}": v for k, v in summarise(results).items()}


def sample(
    model: "TextToImage", captions: Sequence[str], sampling: Sampling
) -> "list[Image.Image]":
    """Sample one image for each caption, each with a seed of its own."""
    from tqdm import tqdm

    images: list[Image.Image] = []
    for first in tqdm(range(0, len(captions), TOGETHER), "sampling", dynamic_ncols=True):
        batch = captions[first : first + TOGETHER]
        assert isinstance(sampling.seed, int)
        seeds = tuple(sampling.seed + first + i for i in range(len(batch)))
        images += model.generate(batch, replace(sampling, seed=seeds)).images
    return images


if __name__ == "__main__":
    raise SystemExit(main())
