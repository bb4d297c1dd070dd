"""Small models, and data of every kind, that several test files share."""

import dataclasses
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image

from dalle.config import TransformerConfig
from dalle.text_to_image import TextToImage
from dalle.transformer import Transformer
from dalle_base.common.images import open_image
from dalle_base.data.sources.base import Record
from dalle_base.data.text_training import train_text
from dvae.config import DVAEConfig, NetworkConfig
from dvae.model import DiscreteVAE

# Overrides of train_dvae.py and train_dalle.py for models that train in a moment.
TINY_DVAE = [
    *("model.image_size=16", "model.grid=4", "model.codebook_size=12", "model.network.width=8"),
    *("model.network.groups=2", "model.network.blocks=1", "model.network.decoder_init=8"),
    *("model.network.stem_stride=2", "model.network.norm=group", "optimiser.lr=0.003"),
    *("model.objective.entropy_weight=0.1", "model.objective.logit_scale=8", "run.log_every=1"),
    *("data.held_out_share=0.3", "run.batch_size=4"),
]
TINY_DALLE = [
    *("model.rows=4", "model.columns=4", "model.image_vocab=12", "model.text_vocab=300"),
    *("model.text_length=8", "model.d_model=16", "model.heads=2", "model.head_width=8"),
    *("model.depth=3", "model.pattern_options={conv: {kernel: 3}}", "optimiser.lr=0.003"),
    *("data.held_out_share=0.3", "run.batch_size=4", "run.log_every=1"),
]


def tiny(**changes) -> TransformerConfig:
    """A config of a tiny transformer."""
    config = TransformerConfig(
        text_vocab=11,
        image_vocab=13,
        text_length=3,
        rows=3,
        columns=4,
        depth=2,
        heads=2,
        head_width=4,
        d_model=12,
        pattern_options={"conv": {"kernel": 3}},
    )
    return dataclasses.replace(config, **changes)


def build(seed: int = 0, **changes) -> Transformer:
    """A tiny transformer with weights large enough to tell faults by."""
    torch.manual_seed(seed)
    model = Transformer(tiny(**changes))
    for parameter in model.parameters():  # the usual start is too near to zero
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def inputs(model: Transformer, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [batch, T] and codes [batch, RC] for a model."""
    generator = torch.Generator().manual_seed(1)
    config, stream = model.config, model.stream
    tokens = torch.randint(config.text_vocab, (batch, stream.text_length), generator=generator)
    codes = torch.randint(config.image_vocab, (batch, stream.image_length), generator=generator)
    return tokens, codes


@contextmanager
def weightless() -> Iterator[None]:
    """Models made here have shapes and no weights, and no time goes to drawing them."""
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        for name in ("normal_", "uniform_"):
            patch.setattr(torch.Tensor, name, lambda self, *_, **__: self)
        yield


def tiny_model(**changes: Any) -> TextToImage:
    """An untrained text-to-image model of images of 16 x 16 pixels in 4 x 4 codes."""
    torch.manual_seed(0)
    network = NetworkConfig(width=8, groups=3, blocks=1, decoder_init=8)
    tokenizer = DiscreteVAE(DVAEConfig(16, 4, 13, network)).eval().requires_grad_(False)
    transformer = build(text_vocab=300, text_length=8, rows=4, columns=4, **changes)
    text = train_text(["thing 0, oil style"], 260)
    return TextToImage(transformer.eval().requires_grad_(False), text, tokenizer)


def encoded(shade: int, kind: str = "PNG") -> bytes:
    """The content of a small file with an image whose red value (near enough, as JPEG) is given."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 90, 160)).save(content, kind)
    return content.getvalue()


def shade(record: Record) -> int:
    """The red value of a record's image."""
    pixel = open_image(record.image, record.name).getpixel((4, 4))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


def table(rows: Sequence[Mapping[str, Any]]) -> datasets.Dataset:
    """A dataset of rows; their bytes under `image` become images."""
    cells = [
        {**row, "image": {"bytes": row["image"], "path": None}}
        if isinstance(row.get("image"), bytes)
        else dict(row)
        for row in rows
    ]
    made = datasets.Dataset.from_list(cells)
    has_images = isinstance(rows[0].get("image"), bytes)
    return made.cast_column("image", datasets.Image()) if has_images else made


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a `table` as parquet, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table(rows).to_parquet(str(path))
    return path


def write_tar(path: Path, members: Mapping[str, bytes | str]) -> Path:
    """Write a plain tar of members by name, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shades(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows of images from dark to light, each with its number as a caption."""
    return [{"image": encoded(i), "caption": f"number {i}"} for i in range(first, first + count)]


def all_end(running: Any, waits: int) -> bool:
    """Whether processes of `torch.multiprocessing.spawn(..., join=False)` end, none left over.

    Each wait is of a minute at most, and over as soon as one of them ends.
    """
    assert running is not None
    try:
        return any(running.join(timeout=60) for _ in range(waits))
    finally:
        for process in running.processes:
            assert process is not None
            process.kill()
