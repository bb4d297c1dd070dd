"""All figures of a DALL-E 2: its prior, its decoder, and what the judge finds in its images.

The judge sees the paper's baselines side by side (section 5.1): images of the prior's embeddings,
of the captions' own embeddings in their place, of the real images' embeddings (what a perfect prior
would give), and of the caption alone.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from dalle_base.common.errors import UserError
from dalle_base.common.images import save_image, to_array, to_tensor
from dalle_base.data.sources import data_of
from dalle_base.data.sources.captioned import captioned_pair
from dalle_evaluation.held_out import load_lite0, open_data
from dalle_evaluation.intervals import Interval
from dalle_evaluation.judge_report import findings_record, findings_table, sheet
from dalle_evaluation.judged_cases import Case, open_exam
from dalle_evaluation.judged_models import ONE, REAL, Findings, Judge
from dalle_evaluation.report import Report
from dalle_evaluation.request import Evaluation
from dalle_evaluation.sampled import counts_up_to
from dual_encoder.examples import held_out_pairs
from unclip.config import UnclipSampling
from unclip.metrics import measure_decoder, measure_prior
from unclip.model import Decoded, Unclip, load_unclip
from unclip.reading import embed_images, read_captions

TEXT, IMAGE, CAPTION = "text_embedding", "real_embedding", "caption_alone"
"""What is decoded in place of the prior's embedding."""


class Way(NamedTuple):
    """What a group's images are decoded of."""

    embeddings: Tensor | None
    """[n, E]; None: the prior's."""
    sampling: UnclipSampling


def evaluate_unclip(request: Evaluation, device: torch.device) -> Report:
    """Measure a DALL-E 2 on a config's held-out pairs, and before the judge. Raises `UserError`."""
    if not request.config:
        raise UserError("a DALL-E 2 is measured on a config's held-out pairs: give --config")
    if request.checker or request.scores:
        raise UserError("--checker and --scores are for models of codes: use --judge")
    model = load_unclip(request.model, device)
    sources = open_data(request)
    lite0 = load_lite0(True, device) if request.judging else None
    judge = None
    if request.judging and lite0:
        size = model.decoder.config.image_size
        exam = open_exam(data_of(request.config), sources, request.judging, size)
        judge = Judge(lite0, exam, request.judging, device)
    pairs = held_out_pairs(
        captioned_pair(*sources)[1], model.decoder.config.image_size, request.images
    )
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
    print(findings_table(findings))
    if request.sheet:
        title = f"{request.model}: the first samples, none picked, each beside the real image"
        save_image(sheet(judge.exam, findings, title), request.sheet)
    settings = {"model": str(request.model), "sampling": asdict(model.sampling)}
    return settings | findings_record(judge, findings)


def judge_group(judge: Judge, model: Unclip, name: str, candidates: int, seed: int) -> Findings:
    """Judge a group's images: one and the best of several by the prior, then the baselines."""
    cases = judge.exam.groups[name]
    own = draw(model, cases, Way(None, model.sampling), candidates, seed, name)
    first = own.select(range(0, len(own.images), candidates)).images
    verdicts = {ONE: judge.verdict(name, judge.features(first))}
    if candidates > 1:
        scores = model.rank(own).view(len(cases), candidates)
        for number in counts_up_to(candidates):
            best = scores[:, :number].argmax(dim=1).tolist()
            chosen = [own.images[i * candidates + k] for i, k in enumerate(best)]
            verdicts[f"best_of_{number}"] = judge.verdict(name, judge.features(chosen))
    for baseline, way in baselines(model, cases).items():
        images = draw(model, cases, way, 1, seed, f"{name}, {baseline}").images
        verdicts[baseline] = judge.verdict(name, judge.features(images))
    real = [case.image for case in cases]
    verdicts[REAL] = judge.verdict(name, judge.features(real))
    return Findings(len(cases), verdicts, {}, first)


def baselines(model: Unclip, cases: Sequence[Case]) -> dict[str, Way]:
    """Return what is decoded in place of the prior's embeddings, by name."""
    text = read_captions(model.encoder, [case.caption for case in cases])
    real = torch.cat([model.embedding_of(case.image) for case in cases])
    # What training hid an embedding by is nothing of the encoder's: the decoder knows it itself.
    nothing = model.decoder.null_embedding.expand(len(cases), -1)
    own = model.sampling
    return {TEXT: Way(text.embedding, own), IMAGE: Way(real, own), CAPTION: Way(nothing, own)}


def draw(
    model: Unclip, cases: Sequence[Case], way: Way, candidates: int, seed: int, name: str
) -> Decoded:
    """Return the candidates of each case, case i with the seed `seed` + i."""
    seeds = [seed + i for i in range(len(cases))]
    with tqdm(desc=f"sampling {name.replace('_', ' ')}", mininterval=1, dynamic_ncols=True) as bar:

        def progress(done: int, total: int, _: Tensor) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return model.generate(
            [case.caption for case in cases],
            candidates,
            seeds,
            sampling=way.sampling,
            embeddings=way.embeddings,
            progress=progress,
        )
