"""The judge within an evaluation: opened before anything is sampled, and its findings as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from dalle.text_to_image import TextToImage
from dalle_base.common.checkpoint import fingerprint
from dalle_base.common.images import save_image
from dalle_base.common.lite0 import Lite0
from dalle_base.data.sources import data_of
from dalle_base.data.sources.base import Source
from dalle_evaluation.judge_report import findings_record, findings_table, sheet
from dalle_evaluation.judged_cases import open_exam
from dalle_evaluation.judged_models import Findings, Judge, judge_model, judge_tokenizer
from dalle_evaluation.request import Evaluation
from dvae.tokenizer import ImageTokenizer


def load_judge(
    request: Evaluation,
    size: int,
    sources: tuple[Source, Source] | None,
    lite0: Lite0 | None,
    device: torch.device,
) -> Judge | None:
    """Return the judge, on a device, or None where none is asked.

    All that it compares is brought to `size`, the side of the model's images. Raises `UserError`.
    """
    judging = request.judging
    if not judging or not sources or not lite0 or not request.config:
        return None
    exam = open_exam(data_of(request.config), sources, judging, size)
    return Judge(lite0, exam, judging, device)


def ask_judge(
    request: Evaluation, judge: Judge | None, model: TextToImage | ImageTokenizer
) -> dict[str, Any]:
    """Let the judge look at samples or, of a tokenizer, at reconstructions; print what it found."""
    if judge is None:
        return {}
    tokenizer = model.tokenizer if isinstance(model, TextToImage) else model
    settings: dict[str, Any] = {
        "model": str(request.model),
        "tokenizer_fingerprint": fingerprint(tokenizer.state_dict()),
    }
    if isinstance(model, TextToImage):
        sampling = replace(request.sampling(model.sampling), candidates=request.candidates)
        settings["fingerprint"] = fingerprint(model.transformer.state_dict())
        settings["sampling"] = asdict(sampling)
        findings = judge_model(judge, model, sampling)
    else:
        findings = judge_tokenizer(judge, model)
    return settings | show_findings(request, judge, findings)


def show_findings(
    request: Evaluation, judge: Judge, findings: Mapping[str, Findings]
) -> dict[str, Any]:
    """Print what the judge found, write its sheet if one is asked for, and return it as JSON."""
    if request.sheet:
        title = f"{request.model}: the first samples, none picked, each beside the real image"
        save_image(sheet(judge.exam, findings, title), request.sheet)
    print(findings_table(findings))
    return findings_record(judge, findings)
