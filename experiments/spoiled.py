"""What a transformer makes of captions, checked: right and wrong images for a reranker to train on.

python -m experiments.spoiled --model models/shapes --out runs/spoiled --captions 600

A reranker chooses among a transformer's samples, and learns from real images alone: it has never
seen what there is to choose from. This samples candidates of scenes of shapes, the one corpus with
a checker, and writes each with its caption and whether all of the caption holds. Where no sample
is right, the tokenizer's reconstruction of the caption's own scene stands beside them: what tells
it from them is what it shows, and not that they have a tokenizer's blur and it has none.

`--edited N` adds scenes that are drawn wrong on purpose (`dalle_base.data.shapes.edits`), beside
the right one, as the tokenizer reconstructs them: these cost no sampling, so there may be many.
`loss.spoiled.path` of train_clip.py reads the file.
"""

import argparse
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from dalle.checkpoint import load_text_to_image
from dalle.config import Sampling
from dalle.text_to_image import TextToImage
from dalle_base.common.device import choose_device
from dalle_base.common.errors import UserError, command
from dalle_base.common.files import check_free, write_folder
from dalle_base.common.report import say
from dalle_base.data.shapes import KINDS, check, described_scene, example, render, wrong_scenes
from dalle_evaluation.reconstructions import reconstructions
from dalle_evaluation.sampled import sample

SPLIT = "train"
SAMPLE, RECONSTRUCTION, EDITED = "sample", "reconstruction", "edited"
AT_ONCE = 32
"""Captions whose edited scenes are reconstructed together."""
FILE = "spoiled.parquet"
SCHEMA = pa.schema(
    {
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "caption": pa.string(),
        "exact": pa.bool_(),
        "failed": pa.list_(pa.string()),
        "origin": pa.string(),
        "scene": pa.int64(),
        "candidate": pa.int64(),
    }
)


class Checked(NamedTuple):
    """An image of a caption, read back."""

    image: Image.Image
    caption: str
    failed: tuple[str, ...]
    """Kinds of attribute that do not hold (`CheckResult.failed`); none: exact."""
    origin: str
    """sample, reconstruction or edited."""
    scene: int
    """Number of the training scene whose caption it is."""
    candidate: int
    """Number among the caption's samples or edited scenes; -1: the right scene itself."""

    def row(self) -> dict[str, Any]:
        """Return it as a row of `SCHEMA`."""
        file = io.BytesIO()
        self.image.save(file, "PNG")
        image = {"bytes": file.getvalue(), "path": None}
        return {**self._asdict(), "image": image, "exact": not self.failed}


def checked_images(
    model: TextToImage, scenes: Sequence[int], sampling: Sampling
) -> Iterator[Checked]:
    """Yield the samples of each training scene's caption, checked, and the scene where all fail.

    It comes as the tokenizer reconstructs it. The caption at place i of `scenes` has the seed
    `sampling.seed` + i.
    """
    size = model.tokenizer.image_size
    images, captions = zip(*(example(SPLIT, 0, scene, size) for scene in scenes), strict=True)
    samples = sample(model, captions, sampling).images
    for place, (scene, caption) in enumerate(zip(scenes, captions, strict=True)):
        first = place * sampling.candidates
        own = samples[first : first + sampling.candidates]
        checked = [
            Checked(image, caption, check(image, caption).failed, SAMPLE, scene, candidate)
            for candidate, image in enumerate(own)
        ]
        yield from checked
        if all(each.failed for each in checked):
            [image] = reconstructions(model.tokenizer, [images[place]])
            yield Checked(image, caption, check(image, caption).failed, RECONSTRUCTION, scene, -1)


def edited_images(model: TextToImage, scenes: Sequence[int], wrong: int) -> Iterator[Checked]:
    """Yield each training scene and at most `wrong` edits of it, reconstructed and checked.

    An edit may be right all the same, where the caption leaves open what it changes.
    """
    size = model.tokenizer.image_size
    for start in tqdm(range(0, len(scenes), AT_ONCE), desc="editing", unit="batch"):
        drawn, about = [], []
        for number in scenes[start : start + AT_ONCE]:
            scene, caption = described_scene(SPLIT, 0, number)
            edits = wrong_scenes(scene, np.random.default_rng([number, 1]), wrong)
            drawn += [render(each, size) for each in (scene, *edits)]
            about += [(caption, number, candidate) for candidate in range(-1, len(edits))]
        images = reconstructions(model.tokenizer, drawn)
        for image, (caption, number, candidate) in zip(images, about, strict=True):
            failed = check(image, caption).failed
            origin = EDITED if candidate >= 0 else RECONSTRUCTION
            yield Checked(image, caption, failed, origin, number, candidate)


def describe(rows: Sequence[Checked], model: Path, sampling: Sampling) -> str:
    """Return the README: how the images were made, and how many are wrong in what."""
    lines = [
        "# Samples of scenes, checked",
        "",
        f"`{FILE}`: what `{model.name}` makes of captions of the training split, and the "
        "reconstructions of scenes of which it made nothing right.",
        f"{sampling.candidates} candidates of each caption, seeds from {sampling.seed}, "
        f"temperature {sampling.temperature:g}, top-k {sampling.top_k}, "
        f"top-p {sampling.top_p:g}, guidance {sampling.guidance_scale:g}. Edited scenes were drawn "
        "wrong on purpose and reconstructed.",
        "",
        "| | images | exact | " + " | ".join(f"{kind} wrong" for kind in KINDS) + " |",
        "|---" * (3 + len(KINDS)) + "|",
    ]
    for origin in (SAMPLE, RECONSTRUCTION, EDITED):
        some = [row for row in rows if row.origin == origin]
        counts = [len(some), sum(not row.failed for row in some)]
        counts += [sum(kind in row.failed for row in some) for kind in KINDS]
        lines.append(f"| {origin} | " + " | ".join(map(str, counts)) + " |")
    wrong = {row.scene for row in rows if row.failed}
    both = wrong & {row.scene for row in rows if not row.failed}
    scenes = {row.scene for row in rows}
    lines += ["", f"{len(both)} of {len(scenes)} captions have a right and a wrong image.", ""]
    return "\n".join(lines)


def write(folder: Path, rows: Sequence[Checked], readme: str) -> None:
    """Write a folder of checked images, whole or not at all. Raises `UserError`."""

    def contents(new: Path) -> None:
        table = pa.Table.from_pylist([row.row() for row in rows], schema=SCHEMA)
        pq.write_table(table, new / FILE)
        (new / "README.md").write_text(readme, encoding="utf-8")

    write_folder(folder, contents)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("models/shapes"), help="model folder")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--captions", type=int, default=600, help="training captions (600)")
    parser.add_argument("--first", type=int, default=0, help="number of the first scene (0)")
    parser.add_argument(
        "--edited", type=int, default=0, help="further captions, with edited scenes (0)"
    )
    parser.add_argument("--candidates", type=int, default=4, help="of each caption (4)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first caption (0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    options = parser.parse_args()
    if min(options.captions, options.edited) < 0 or not options.captions + options.edited:
        raise UserError(
            f"--captions is {options.captions} and --edited {options.edited}: write numbers of "
            "captions, not both 0"
        )
    if options.first < 0:
        raise UserError(f"--first is {options.first}: scenes are numbered from 0")
    return options


@command
def main() -> None:
    options = parse_arguments()
    check_free(options.out)
    model = load_text_to_image(options.model, device=choose_device(options.device), rerank=False)
    sampling = model.sampling.sampling(candidates=options.candidates, seed=options.seed)
    sampled = range(options.first, options.first + options.captions)
    edited = range(sampled.stop, sampled.stop + options.edited)
    say(
        f"samples {options.captions * options.candidates} images of {options.captions} captions, "
        f"edits {options.edited} scenes, checks them, writes {options.out}"
    )
    rows = [*checked_images(model, sampled, sampling)] if sampled else []
    rows += edited_images(model, edited, options.candidates) if edited else []
    readme = describe(rows, options.model, sampling)
    write(options.out, rows, readme)
    print(readme)


if __name__ == "__main__":
    raise SystemExit(main())
