"""A checkpoint's figures: reconstructions, held-out losses, exact match, scores, the judge."""

import dalle_base.common.interrupts  # noqa: F401  # isort: skip  # first of all

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dalle.config import Sampling, SamplingDefaults
from dalle.request import add_settings, take_settings
from dalle_base.common.arguments import Number, add_device
from dalle_base.common.bounds import From0, Seed
from dalle_base.common.errors import UserError, command
from dalle_base.common.files import prepare_file
from dalle_base.common.model_folders import find_model
from dalle_base.common.report import say, write_json
from dalle_base.data.config import PathConfig
from dalle_base.data.sources import data_of
from dalle_evaluation.judge_options import Judging, Resamples, add_judge, judging_of

if TYPE_CHECKING:
    import torch

    from dalle.text_to_image import TextToImage
    from dalle_base.common.lite0 import Lite0
    from dalle_base.data.sources.base import Source
    from dalle_evaluation.inception import Inception
    from dalle_evaluation.intervals import Interval, Score
    from dalle_evaluation.judged_models import Judge
    from dual_encoder.ranker import Ranker
    from dvae.tokenizer import ImageTokenizer

TOGETHER = 100
"""Images sampled, or scenes rebuilt, at a time."""


class Loaded(NamedTuple):
    """The models of a folder, on their device."""

    model: "TextToImage | None"
    """None for a tokenizer alone."""
    tokenizer: "ImageTokenizer"
    device: "torch.device"


class Figures(NamedTuple):
    """All that was measured of a model."""

    plain: dict[str, float]
    scores: "dict[str, Score]"
    judge: dict[str, Any]
    """As JSON; empty without --judge."""


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
        "--images",
        "--pictures",
        action=Number,
        kind=From0,
        default=1024,
        help="held-out images; 0: all",
    )
    parser.add_argument(
        "--checker",
        action=Number,
        kind=From0,
        default=0,
        help="captions of shapes to sample and check, if any",
    )
    parser.add_argument(
        "--split",
        choices=("train", "test", "compositional"),
        default="test",
        help="split of those (default: %(default)s)",
    )
    parser.add_argument(
        "--scores",
        action=Number,
        kind=From0,
        default=0,
        help="held-out captions to sample and score, if any",
    )
    parser.add_argument(
        "--ranker", type=Path, help="dual encoder that scores (default: the model's reranker)"
    )
    parser.add_argument("--inception", type=Path, help="Inception weights: also measure FID")
    parser.add_argument(
        "--resamples",
        action=Number,
        kind=Resamples,
        default=1000,
        help="of the intervals",
    )
    add_judge(parser)
    add_settings(parser)
    parser.add_argument(
        "--seed",
        action=Number,
        kind=Seed,
        default=0,
        help="seed of the first image",
    )
    add_device(parser)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args(argv)


def sampling_of(options: argparse.Namespace, model: "TextToImage | None" = None) -> Sampling:
    """Return how to sample, one candidate of each caption: as asked, else as the model's own.

    Raises `UserError`.
    """
    own = model.sampling if model else SamplingDefaults()
    asked = take_settings(dict(vars(options)))
    return own.sampling(seed=options.seed, batch_size=TOGETHER, **asked)


@command
def main() -> None:
    options = parse_arguments()
    sampling_of(options)  # mistakes are answered at once
    judging = judging_of(options)
    for path in (options.json, options.sheet):
        if path:
            prepare_file(path)
    from dalle_base.common.device import announce, choose_device, enough_memory
    from dual_encoder.checkpoint import is_dual_encoder

    device = choose_device(options.device)
    announce(device)
    options.model = find_model(options.model)
    with enough_memory("use --device cpu"):
        if is_dual_encoder(options.model):
            report(options.json, Figures(on_pairs(options, device), {}, {}))
            return
        figures = measure_all(options, judging, device)
    if not figures.plain:
        raise UserError("nothing to measure: give --config, --checker or both")
    report(options.json, figures)


def load(options: argparse.Namespace, device: "torch.device") -> Loaded:
    """Return what is in the model's folder."""
    from dalle.checkpoint import TOKENIZER, load_text_to_image
    from dalle_base.data.text import TEXT
    from dvae.checkpoint import load_tokenizer

    if (options.model / TOKENIZER).is_dir() and (options.model / TEXT).exists():
        model = load_text_to_image(options.model, device=device)
        return Loaded(model, model.tokenizer, device)
    return Loaded(None, load_tokenizer(options.model)[0].to(device), device)


def measure_all(
    options: argparse.Namespace, judging: Judging | None, device: "torch.device"
) -> Figures:
    """Return what is asked for of a tokenizer or a text-to-image model."""
    from dalle_evaluation.exact_match import exact_match_of_reconstructions, exact_match_of_samples

    loaded = load(options, device)
    model, tokenizer, _ = loaded
    sampling = sampling_of(options, model)
    # What can fail comes before anything that takes long.
    scorers = load_scorers(options, model, device)
    sources = open_data(options) if options.config else None
    lite0 = load_lite0(judging is not None, device) if sources else None
    judge = None
    if judging and sources and lite0:
        judge = load_judge(options, judging, loaded, sources, lite0)
    figures, scored, judged = {}, {}, {}
    if sources:
        figures |= on_held_out(sources, options.images, loaded, lite0)
    if options.checker:
        figures |= exact_match_of_reconstructions(tokenizer, options.split, options.checker)
        if model:
            figures |= exact_match_of_samples(model, sampling, options.split, options.checker)
    if scorers and model and sources:
        scored = on_scores(options, sources, model, *scorers)
    if judge:
        judged = on_judge(options, judge, loaded)
    return Figures(figures, scored, judged)


def report(path: Path | None, figures: Figures) -> None:
    """Print figures and scores, and write all to a file if there is one."""
    width = max(map(len, [*figures.plain, *figures.scores]))
    for name, value in figures.plain.items():
        print(f"{name:<{width}}  {value:.4f}")
    for name, score in figures.scores.items():
        print(f"{name:<{width}}  {written(score.sampled)}  real images {written(score.real)}")
    if path:
        record: dict[str, object] = dict(figures.plain)
        if figures.scores:
            record["scores"] = {
                name: {"drawn": score.sampled._asdict(), "real": score.real._asdict()}
                for name, score in figures.scores.items()
            }
        if figures.judge:
            record["judge"] = figures.judge
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
    if not options.config or model is None:
        raise UserError(
            "--scores needs --config, for its held-out captions, and a text-to-image model"
        )
    folder = options.ranker or options.model / RERANKER
    if not folder.is_dir():
        raise UserError(f"no dual encoder {folder} to score with: name one with --ranker")
    inception = Inception(options.inception) if options.inception else None
    return load_dual_encoder(folder).to(device), inception


def open_data(options: argparse.Namespace) -> "tuple[Source, Source]":
    """Return the training and the held-out images of a config."""
    from dalle_base.data.sources import open_sources

    data = data_of(options.config)
    if options.held_out:
        if not isinstance(data, PathConfig):
            raise UserError(
                f"--held-out is for data with a path, not for data.source={data.source}"
            )
        data.held_out_path = options.held_out
    return open_sources(data)


def load_lite0(needed: bool, device: "torch.device") -> "Lite0 | None":
    """Return the perceptual network, or say that nothing is measured by it: it is not installed.

    Raises `UserError` where it is needed.
    """
    from dalle_base.common.lite0 import Lite0

    try:
        return Lite0().to(device)
    except UserError as error:
        if needed:
            raise
        say(f"lite0_distance: not measured ({error})")
        return None


def load_judge(
    options: argparse.Namespace,
    judging: Judging,
    loaded: Loaded,
    sources: "tuple[Source, Source]",
    lite0: "Lite0",
) -> "Judge":
    """Return the judge, with the images that it compares. Raises `UserError`."""
    from dalle.generate import check_sampling
    from dalle_evaluation.judged_cases import open_exam
    from dalle_evaluation.judged_models import Judge

    if loaded.model:
        check_sampling(loaded.model.transformer, sampling_of(options, loaded.model))
        if judging.candidates > 1 and loaded.model.reranker is None:
            raise UserError(f"--candidates needs a reranker, and {options.model} has none")
    elif options.sheet or judging.candidates > 1:
        raise UserError("--sheet and --candidates are for text-to-image models")
    exam = open_exam(data_of(options.config), sources, judging, loaded.tokenizer.image_size)
    return Judge(lite0, exam, judging, loaded.device)


def on_pairs(options: argparse.Namespace, device: "torch.device") -> dict[str, float]:
    """Measure how a dual encoder finds and tells apart a config's held-out pairs."""
    from dalle_base.data.sources.captioned import captioned_pair
    from dual_encoder.checkpoint import load_dual_encoder
    from dual_encoder.config import LossConfig
    from dual_encoder.examples import held_out_pairs
    from dual_encoder.metrics import classification, measure_features

    if not options.config:
        raise UserError("a dual encoder is measured on a config's held-out pairs: give --config")
    if options.checker or options.scores or options.judge:
        raise UserError("--checker, --scores and --judge are for text-to-image models")
    ranker = load_dual_encoder(options.model).to(device)
    size = ranker.model.config.image_size
    pairs = held_out_pairs(captioned_pair(*open_data(options))[1], size, options.images)
    text = ranker.text_features(pairs.captions)
    images = ranker.image_features(pairs.images)
    figures = measure_features(ranker, images, text, pairs, LossConfig())
    return figures | {"classification_of_100": classification(images, text, pairs.captions)}


def on_held_out(
    sources: "tuple[Source, Source]", limit: int, loaded: Loaded, lite0: "Lite0 | None"
) -> dict[str, float]:
    """Measure reconstructions, and the transformer's losses, on held-out images."""
    from dalle.examples import held_out_examples
    from dalle.metrics import held_out_losses
    from dalle_base.data.batches import ImageDataset, all_images
    from dalle_base.data.sources.captioned import captioned_pair
    from dalle_evaluation.reconstructions import lite0_distance
    from dvae.metrics import measure

    model, tokenizer, _ = loaded
    images = all_images(ImageDataset(sources[1], tokenizer.image_size, None), limit)
    figures = measure(tokenizer, images)
    if lite0:
        figures["lite0_distance"] = lite0_distance(lite0, tokenizer, images)
    if model:
        length = model.transformer.config.text_length
        source = captioned_pair(*sources)[1]
        examples = held_out_examples(source, model.text_tokenizer, length, tokenizer, limit)
        figures |= held_out_losses(model.transformer, *examples)
    return figures


def on_scores(
    options: argparse.Namespace,
    sources: "tuple[Source, Source]",
    model: "TextToImage",
    ranker: "Ranker",
    inception: "Inception | None",
) -> "dict[str, Score]":
    """Sample images of held-out captions and score them, beside the real ones."""
    from dalle_base.data.sources.captioned import captioned_pair
    from dalle_evaluation.sampled import sample
    from dalle_evaluation.scores import choose_held_out, fid, scores

    chosen = choose_held_out(
        captioned_pair(*sources)[1], options.scores, model.tokenizer.image_size
    )
    images = sample(model, chosen.captions, sampling_of(options, model)).images
    found = scores(ranker, images, chosen, options.resamples)
    if inception:
        found["fid"] = fid(inception, images, chosen, options.resamples)
    count = len(chosen.reference)
    print(
        f"scores of {len(images)} captions, Fréchet distances between {count} and {count} images; "
        "[95 % interval]"
    )
    return found


def on_judge(options: argparse.Namespace, judge: "Judge", loaded: Loaded) -> dict[str, Any]:
    """Let the judge look at samples or, of a tokenizer, at reconstructions; print what it found."""
    from dalle_base.common.checkpoint import fingerprint
    from dalle_base.common.images import save_image
    from dalle_evaluation.judge_report import findings_record, findings_table, sheet
    from dalle_evaluation.judged_models import judge_model, judge_tokenizer

    model, tokenizer, _ = loaded
    settings: dict[str, Any] = {
        "model": str(options.model),
        "tokenizer_fingerprint": fingerprint(tokenizer.state_dict()),
    }
    if model:
        sampling = replace(sampling_of(options, model), candidates=judge.judging.candidates)
        settings["fingerprint"] = fingerprint(model.transformer.state_dict())
        settings["sampling"] = asdict(sampling)
        findings = judge_model(judge, model, sampling)
        if options.sheet:
            title = f"{options.model}: the first samples, none picked, each beside the real image"
            save_image(sheet(judge.exam, findings, title), options.sheet)
    else:
        findings = judge_tokenizer(judge, tokenizer)
    print(findings_table(findings))
    return settings | findings_record(judge, findings)


if __name__ == "__main__":
    raise SystemExit(main())
