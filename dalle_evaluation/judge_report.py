"""The judge's findings as a table, as JSON and as a sheet of images."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from dalle_base.common.images import grid
from dalle_base.common.report import table
from dalle_base.common.sheets import THUMBNAIL, thumbnail
from dalle_evaluation.intervals import Interval
from dalle_evaluation.judge import Verdict, chance
from dalle_evaluation.judged_cases import KNOWN, Exam
from dalle_evaluation.judged_models import ONE, Findings, Judge

ON_SHEET = 48
"""Samples on a sheet: the first of KNOWN, which is in random order."""
HEADINGS = {ONE: "one candidate"}


def findings_table(findings: Mapping[str, Findings]) -> str:
    """A row for each group: percentages, top-1 with its 95 % interval and top-5."""
    columns = list(next(iter(findings.values())).verdicts)
    rows = [["top-1 [95 %] / top-5, in %", "n"]]
    rows[0] += [HEADINGS.get(name, name.replace("_", " ")) for name in columns] + ["chance"]
    for name, group in findings.items():
        cells = [cell(group.verdicts[column]) for column in columns]
        blind = " / ".join(f"{100 * chance(group.count, k):.1f}" for k in (1, 5))
        rows.append([name.replace("_", " "), str(group.count), *cells, blind])
    lines = [table(rows)]
    for name, share in findings[KNOWN].shares.items():
        lines.append(f"known, {name.replace('_', ' ')}: {_percent(share)}")
    return "\n".join(lines)


def cell(verdict: Verdict) -> str:
    """Top-1 with its interval and top-5, in %."""
    return f"{_percent(verdict.top_1)} / {100 * verdict.top_5.value:.1f}"


def _percent(share: Interval) -> str:
    return f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def findings_record(judge: Judge, findings: Mapping[str, Findings]) -> dict[str, Any]:
    """What is written as JSON; ranks are in the order of the concepts, for comparing models."""
    exam = judge.exam
    return {
        "reference": exam.reference,
        "artist": exam.artist,
        "resamples": judge.judging.resamples,
        "groups": {
            name: {
                "n": group.count,
                "chance": {f"top_{k}": chance(group.count, k) for k in (1, 5)},
                **{kind: _verdict(verdict) for kind, verdict in group.verdicts.items()},
                **{kind: share._asdict() for kind, share in group.shares.items()},
                "concepts": [case.concept for case in exam.groups[name]],
            }
            for name, group in findings.items()
        },
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "top_1": verdict.top_1._asdict(),
        "top_5": verdict.top_5._asdict(),
        "ranks": verdict.ranks,
    }


def sheet(exam: Exam, findings: Mapping[str, Findings], title: str) -> Image.Image:
    """The first samples of KNOWN over their captions, the real image beside each; none picked."""
    images, labels = [], []
    pairs = list(zip(exam.groups[KNOWN], findings[KNOWN].samples, strict=True))
    for case, image in pairs[:ON_SHEET]:
        images += [thumbnail(image), thumbnail(case.image)]
        labels += [_short(case.caption.removesuffix(" style")), "real"]
    return grid(images, 12, labels, title)


def _short(label: str) -> str:
    most = THUMBNAIL // 6  # letters that fit under an image
    return label if len(label) <= most else label[: most - 2] + ".."
