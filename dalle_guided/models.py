"""The models of a guided drawing: a tokenizer, what guides, what watches, what samples a start."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dalle.checkpoint import RERANKER, TOKENIZER, load_text_to_image
from dalle.text_to_image import TextToImage
from dalle_base.common.errors import UserError
from dalle_base.common.opening import read_image
from dalle_guided.objective import Target
from dalle_guided.request import GuideRequest
from dalle_guided.starts import codes_of, grid_of, random_codes, sampled_codes
from dual_encoder.checkpoint import load_dual_encoder
from dvae.checkpoint import load_tokenizer
from dvae.tokenizer import ImageTokenizer


@dataclass
class GuideModels:
    """All that a drawing needs."""

    tokenizer: ImageTokenizer
    target: Target
    encoder_folder: Path
    second: Target | None = None
    sampler: TextToImage | None = None

    def start(self, request: GuideRequest, seed: int) -> Tensor:
        """Return the codes [1, R, C] that a drawing starts from. Raises `UserError`."""
        grid = grid_of(self.tokenizer, request.size)
        if request.start == "noise":
            return random_codes(self.tokenizer, grid, seed)
        if request.image is not None:
            return codes_of(self.tokenizer, read_image(request.image), grid)
        assert self.sampler
        codes = sampled_codes(self.sampler, request.prompts[0].text, request.sampled, seed)
        if codes.shape[1:] == grid:
            return codes
        (image,) = self.sampler.images(codes.flatten(1))
        return codes_of(self.tokenizer, image, grid)


def load_models(request: GuideRequest, device: torch.device) -> GuideModels:
    """Return the models of a request, on a device.

    Raises `UserError` before anything is drawn: for folders that are not what they should be, a
    size that the tokenizer has not, an image that cannot be read.
    """
    sampler = None
    if request.start == "sampled":
        sampler = load_text_to_image(request.model, device=device)
        tokenizer = sampler.tokenizer
        if sampler.reranker is None and request.sampled > 1:
            raise UserError(f"{request.model} has no reranker to choose a start: --sampled 1")
    else:
        own = request.model / TOKENIZER
        tokenizer, _ = load_tokenizer(own if own.is_dir() else request.model)
        tokenizer = tokenizer.to(device)
    tokenizer.eval().requires_grad_(False)
    folder = request.encoder or request.model / RERANKER
    if not folder.is_dir():
        raise UserError(f"no dual encoder {folder} to guide by: name one with --encoder")
    target = Target(load_dual_encoder(folder).to(device), request.prompts)
    second = None
    if request.second:
        second = Target(load_dual_encoder(request.second).to(device), request.prompts)
    models = GuideModels(tokenizer, target, folder, second, sampler)
    check_start(models, request)
    return models


@torch.no_grad()
def check_start(models: GuideModels, request: GuideRequest) -> None:
    """Raise `UserError` unless the tokenizer can draw what is asked for."""
    rows, columns = grid_of(models.tokenizer, request.size)
    device = next(models.tokenizer.parameters()).device
    codes = torch.zeros(1, rows, columns, dtype=torch.long, device=device)
    latents = models.tokenizer.latents(codes)
    try:
        models.tokenizer.draw_latents(latents)
    except RuntimeError:
        if (rows, columns) == (models.tokenizer.rows, models.tokenizer.columns):
            raise
        raise UserError(
            f"--size is {request.size}: this tokenizer draws {models.tokenizer.image_size} pixels "
            "alone"
        ) from None
    if request.image is not None:
        read_image(request.image)
