"""Overrides that make each training script's run take a second."""

from collections.abc import Callable
from pathlib import Path

from rankers import TINY as CLIP

import train_clip
import train_dalle
import train_decoder
import train_dvae
import train_prior

MAINS: dict[str, Callable[[], int]] = {
    "dvae": train_dvae.main,
    "dalle": train_dalle.main,
    "clip": train_clip.main,
    "prior": train_prior.main,
    "decoder": train_decoder.main,
}
DVAE = [
    *("model.image_size=16", "model.grid=4", "model.codebook_size=12", "model.network.width=8"),
    *("model.network.groups=2", "model.network.blocks=1", "model.network.decoder_init=8"),
    *("model.network.stem_stride=2", "model.network.bottleneck=2"),
]
DALLE = [
    *("model.rows=4", "model.columns=4", "model.image_vocab=12", "model.text_vocab=300"),
    *("model.text_length=8", "model.d_model=16", "model.heads=2", "model.head_width=8"),
    *("model.depth=1", "model.pattern_options={conv: {kernel: 3}}", "previews=[red]"),
]
PRIOR = ["model={layers: 1, heads: 2, head_width: 4}", "sampling_steps=2"]
DECODER = [
    *("model.image_size=16", "model.patch=2", "model.channels=[8, 16]", "model.blocks=1"),
    *("model.attention=[1]", "model.head_width=8", "model.context_width=8", "model.norm_groups=4"),
    *("model.noise.variance=fixed", "sampling_steps=2"),
]
OPTIONS = {"dvae": DVAE, "dalle": DALLE, "clip": CLIP, "prior": PRIOR, "decoder": DECODER}
SHARED = ["data.held_out_share=0.3", "run.batch_size=4", "run.updates=2", "held_out_images=2"]


def arguments_of(script: str, images: Path, tokenizer: Path, encoder: Path) -> list[str]:
    """The arguments of a tiny run on images, with the folders of what it stands on.

    `tokenizer` is of `DVAE`'s size, for train_dalle; `encoder` any dual encoder, for the two of
    DALL-E 2.
    """
    own = [f"tokenizer={tokenizer}"] if script == "dalle" else []
    own += [f"encoder={encoder}"] if script in ("prior", "decoder") else []
    return [*OPTIONS[script], *SHARED, *own, f"data.path={images}"]
