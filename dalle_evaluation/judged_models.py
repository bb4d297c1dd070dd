"""A model before the judge: its samples and reconstructions, beside the real images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from dalle.config import Sampling
from dalle.text_to_image import Samples, TextToImage
from dalle_base.data.batches import ImageDataset
from dalle_evaluation.intervals import Interval, mean_interval
from dalle_evaluation.judge import (
    Network,
    Verdict,
    features,
    finds_own,
    found_ranks,
    same_codes,
    verdict,
)
from dalle_evaluation.judge_options import Judging
from dalle_evaluation.judged_cases import KNOWN, Case, Exam
from dalle_evaluation.reconstructions import batches_of, reconstructions
from dalle_evaluation.sampled import counts_up_to, sample
from dvae.tokenizer import ImageTokenizer

TOGETHER = 64
"""Images read, or encoded, at a time."""
ONE, REAL, RECONSTRUCTIONS = "one", "real", "reconstructions"


class Findings(NamedTuple):
    """What the judge found of one group."""

    count: int
    """Images, and references that each is compared with."""
    verdicts: dict[str, Verdict]
    """By what was judged: ONE, `best_of_K`, RECONSTRUCTIONS, REAL."""
    shares: dict[str, Interval]
    """Of KNOWN: how near samples are to the training images that their captions are of."""
    samples: list[Image.Image]
    """The first candidate of each caption."""


@dataclass(eq=False)
class Judge:
    """The network that judges, on its device, and what has been computed of the exam."""

    network: Network
    exam: Exam
    judging: Judging = field(default_factory=Judging)
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        self.references = {
            name: self.features([case.reference for case in cases])
            for name, cases in self.exam.groups.items()
        }

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Features [N, E] of images."""
        return features(self.network, images, self.device)

    def verdict(self, group: str, images: Tensor) -> Verdict:
        """How the images of a group's cases, as features [n, E], find their concepts."""
        return verdict(found_ranks(images, self.references[group]), self.judging.resamples)


def judge_tokenizer(judge: Judge, tokenizer: ImageTokenizer) -> dict[str, Findings]:
    """Judge reconstructions and real images of every group."""
    return {
        name: Findings(len(cases), judge_images(judge, name, tokenizer), {}, [])
        for name, cases in judge.exam.groups.items()
    }


def judge_model(judge: Judge, model: TextToImage, sampling: Sampling) -> dict[str, Findings]:
    """Judge samples, reconstructions and real images of every group.

    `sampling` says how; of several candidates the reranker's best is judged as well.
    """
    findings = {}
    for name, cases in judge.exam.groups.items():
        samples = sample_cases(model, cases, sampling, name)
        verdicts = judge_samples(judge, name, model, samples, sampling.likelihood_weight)
        verdicts |= judge_images(judge, name, model.tokenizer)
        first = samples.select(range(0, len(samples.images), sampling.candidates))
        shares = {}
        if name == KNOWN:
            shares["own_codes"] = own_codes(judge, model, first)
            if judge.judging.nearest:
                shares |= nearest_training(judge, model.tokenizer, first.images)
        findings[name] = Findings(len(cases), verdicts, shares, first.images)
    return findings


def sample_cases(
    model: TextToImage, cases: Sequence[Case], sampling: Sampling, name: str
) -> Samples:
    """Sample the captions of a group."""
    captions = [case.caption for case in cases]
    return sample(model, captions, sampling, f"sampling {name.replace('_', ' ')}")


def judge_samples(
    judge: Judge,
    group: str,
    model: TextToImage,
    samples: Samples,
    likelihood_weight: float | None = None,
) -> dict[str, Verdict]:
    """Judge each caption's first candidate, and of the first 4, 16, ... and all those that
    `model.rank` prefers.
    """
    return judge_candidates(
        judge, group, samples.images, lambda: model.rank(samples, likelihood_weight)
    )


def judge_candidates(
    judge: Judge, group: str, images: Sequence[Image.Image], rank: Callable[[], Tensor]
) -> dict[str, Verdict]:
    """Judge the first of each case's candidates, which stand side by side, and the best of more.

    `rank` returns how good each image is, more is better; it is asked where there are several.
    """
    count = len(judge.exam.groups[group])
    candidates = len(images) // count
    verdicts = {ONE: judge.verdict(group, judge.features(images[::candidates]))}
    if candidates > 1:
        scores = rank().view(count, candidates)
        for number in counts_up_to(candidates):
            best = scores[:, :number].argmax(dim=1).tolist()
            chosen = [images[i * candidates + k] for i, k in enumerate(best)]
            verdicts[f"best_of_{number}"] = judge.verdict(group, judge.features(chosen))
    return verdicts


def judge_images(judge: Judge, group: str, tokenizer: ImageTokenizer) -> dict[str, Verdict]:
    """Judge the real images of a group and their reconstructions: the ceilings."""
    real = [case.image for case in judge.exam.groups[group]]
    return {
        RECONSTRUCTIONS: judge.verdict(group, judge.features(reconstructions(tokenizer, real))),
        REAL: judge.verdict(group, judge.features(real)),
    }


def own_codes(judge: Judge, model: TextToImage, samples: Samples) -> Interval:
    """The share of the codes of KNOWN's samples that the real image has at their places."""
    real = [case.image for case in judge.exam.groups[KNOWN]]
    parts = [model.codes(real[first : first + TOGETHER]) for first in range(0, len(real), TOGETHER)]
    own = torch.cat(parts)
    return mean_interval(same_codes(samples.codes, own).numpy(), judge.judging.resamples)


def nearest_training(
    judge: Judge, tokenizer: ImageTokenizer, samples: Sequence[Image.Image]
) -> dict[str, Interval]:
    """The share of KNOWN's samples to which the captioned training image is the nearest of all.

    The same of their reconstructions beside it: more than that could not be expected.
    """
    cases = judge.exam.groups[KNOWN]
    training = training_features(judge, tokenizer.image_size)
    rebuilt = reconstructions(tokenizer, [case.image for case in cases])
    own = [case.index for case in cases]
    return {
        f"nearest_training_image{suffix}": mean_interval(
            finds_own(judge.features(images), training, own).numpy(), judge.judging.resamples
        )
        for suffix, images in (("", samples), ("_of_reconstructions", rebuilt))
    }


def training_features(judge: Judge, size: int) -> Tensor:
    """Features [m, E] of all training images, at the side of the model's images."""
    images = ImageDataset(judge.exam.training, size, None)
    return torch.cat([judge.features(some) for some in batches_of(images, TOGETHER)])
