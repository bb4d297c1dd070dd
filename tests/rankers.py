"""Small dual encoders for tests: one that knows three colours, in about a second."""

import functools
import json
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

from dalle_base.common.images import to_array, to_tensor
from dalle_base.data.text_training import train_text
from dalle_base.training.meter import MACHINE
from dual_encoder.config import DualEncoderConfig, TowerConfig
from dual_encoder.model import DualEncoder
from dual_encoder.ranker import Ranker
from dual_encoder.text import encode_captions

TINY = [  # overrides of train_clip.py
    *("model.embed_dim=8", "model.image_size=16", "model.patch_size=8", "model.vocab_size=300"),
    *("model.text_length=12", "model.vision={width: 16, layers: 1, heads: 2}"),
    *("model.text={width: 8, layers: 1, heads: 2}", "optimiser.lr=0.003", "run.log_every=1"),
    *("data.held_out_share=0.3", "run.batch_size=4"),
]
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 230)}


def untrained(seed: int = 0) -> Ranker:
    """A tiny dual encoder with random weights."""
    torch.manual_seed(seed)
    config = DualEncoderConfig(
        embed_dim=12,
        image_size=8,
        patch_size=4,
        vision=TowerConfig(16, 1, 2),
        vocab_size=300,
        text_length=16,
        text=TowerConfig(16, 1, 2),
    )
    captions = [f"a picture of {colour}, a {colour} thing" for colour in COLOURS]
    text_tokenizer = train_text(captions, 290)
    return Ranker(DualEncoder(config).eval().requires_grad_(False), text_tokenizer)


@functools.cache
def colour_ranker() -> Ranker:
    """A tiny dual encoder that has learned which colour is called what."""
    ranker = untrained()
    model = ranker.model.train().requires_grad_(True)
    images = to_tensor([to_array(plain(colour, 8)) for colour in COLOURS])
    templates = ["{}", "a {} thing", "a picture of {}"]
    tokens = [
        encode_captions(ranker.text_tokenizer, [t.format(c) for c in COLOURS], model.config)
        for t in templates
    ]
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    target = torch.arange(len(COLOURS))
    for update in range(60):
        noisy = (images + 0.05 * torch.randn_like(images)).clamp(0, 1)
        seen, read, scale = model(noisy, tokens[update % len(tokens)])
        loss = F.cross_entropy(scale * seen @ read.T, target)
        loss = loss + F.cross_entropy(scale * read @ seen.T, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval().requires_grad_(False)
    return ranker


def plain(colour: str, size: int = 12) -> Image.Image:
    """An image of one colour."""
    return Image.new("RGB", (size, size), COLOURS[colour])


def log_lines(folder: Path) -> list[dict[str, float]]:
    """What a run has logged, line by line, but for the figures of the machine."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in MACHINE} for line in lines]
