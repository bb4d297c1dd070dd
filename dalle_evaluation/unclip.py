"""All figures of a DALL-E 2: its prior, its decoder, and what the judge finds in its images.

The judge sees the paper's baselines side by side (section 5.1): images of the prior's embeddings,
of the captions' own embeddings in their place, of the real images' embeddings (what a perfect prior
would give), and of the caption alone.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dalle_base.common.errors import UserError
from dalle_base.common.images import to_array, to_tensor
from dalle_base.data.sources.captioned import captioned_pair
from dalle_evaluation.held_out import load_lite0, open_data
from dalle_evaluation.intervals import Interval
from dalle_evaluation.judged_cases import Case
from dalle_evaluation.judged_models import REAL, Findings, Judge, judge_candidates
from dalle_evaluation.judging import load_judge, show_findings
from dalle_evaluation.report import Report
from dalle_evaluation.request import Evaluation
from dual_encoder.examples import held_out_pairs
from unclip.metrics import measure_decoder, measure_prior
from unclip.model import Decoded, Unclip, load_unclip
from unclip.reading import embed_images, read_captions

TEXT, IMAGE, CAPTION = "text_embedding", "real_embedding", "caption_alone"
"""What is decoded in place of the prior's embedding."""


def evaluate_unclip(request: Evaluation, device: torch.device) -> Report:
    """Measure a DALL-E 2 on a config's held-out pairs, and before the judge. Raises `UserError`."""
    if not request.config:
        raise UserError("a DALL-E 2 is measured on a config's held-out pairs: give --config")
    if request.checker or request.scores:
        raise UserError("--checker and --scores are for models of codes: use --judge")
    model = load_unclip(request.model, device)
    sources = open_data(request)
    size = model.decoder.config.image_size
    lite0 = load_lite0(True, device) if request.judging else None
    judge = load_judge(request, size, sources, lite0, device)
    pairs = held_out_pairs(captioned_pair(*sources)[1], size, request.images)
    images = to_tensor([to_array(image) for image in pairs.images]).to(device)
    text = read_captions(model.encoder, pairs.captions)
    embedding = embed_images(model.encoder, images)
    steps = model.sampling.prior_steps
    figures: dict[str, Interval | float] = {
        f"prior_{name}": value
        for name, value in measure_prior(model.prior, embedding, text, steps).items()
    }
    decoder = measure_decoder(model.decoder, images, embedding, text)
    figures |= {f"decoder_{name}": value for name, value in decoder.items()}
    return Report(figures, judge=ask_judge(request, judge, model))


def ask_judge(request: Evaluation, judge: Judge | None, model: Unclip) -> dict[str, Any]:
    """Let the judge look at images of every group; print what it found."""
    if judge is None:
        return {}
    findings = {
        name: judge_group(judge, model, name, request.candidates, request.seed)
        for name in judge.exam.groups
    }
    settings = {"model": str(request.model), "sampling": asdict(model.sampling)}
    return settings | show_findings(request, judge, findings)


def judge_group(judge: Judge, model: Unclip, name: str, candidates: int, seed: int) -> Findings:
    """Judge a group's images: one and the best of several by the prior, then the baselines."""
    cases = judge.exam.groups[name]
    own = draw(model, cases, None, candidates, seed, name)
    verdicts = judge_candidates(judge, name, own.images, lambda: model.rank(own))
    for baseline, embeddings in baselines(model, cases).items():
        images = draw(model, cases, embeddings, 1, seed, f"{name}, {baseline}").images
        verdicts[baseline] = judge.verdict(name, judge.features(images))
    real = [case.image for case in cases]
    verdicts[REAL] = judge.verdict(name, judge.features(real))
    return Findings(len(cases), verdicts, {}, own.images[::candidates])


def baselines(model: Unclip, cases: Sequence[Case]) -> dict[str, Tensor]:
    """Return the embeddings [n, E] that are decoded in place of the prior's, by name."""
    text = read_captions(model.encoder, [case.caption for case in cases])
    real = torch.cat([model.embedding_of(case.image) for case in cases])
    # What training hid an embedding by is nothing of the encoder's: the decoder knows it itself.
    nothing = model.decoder.null_embedding.expand(len(cases), -1)
    return {TEXT: text.embedding, IMAGE: real, CAPTION: nothing}


def draw(
    model: Unclip,
    cases: Sequence[Case],
    embeddings: Tensor | None,
    candidates: int,
    seed: int,
    name: str,
) -> Decoded:
    """Return the candidates of each case, case i with the seed `seed` + i.

    `embeddings` [n, E] are decoded in place of the prior's.
    """
    seeds = [seed + i for i in range(len(cases))]
    with tqdm(desc=f"sampling {name.replace('_', ' ')}", mininterval=1, dynamic_ncols=True) as bar:

        def progress(done: int, total: int, _: Tensor) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return model.generate(
            [case.caption for case in cases],
            candidates,
            seeds,
            embeddings=embeddings,
            progress=progress,
        )
