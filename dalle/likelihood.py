"""How likely given images are under captions: one pass reads all codes, nothing is sampled."""

from pathlib import Path

import torch
from torch import Tensor

from dalle.generate import check_codes, check_tokens, evaluating
from dalle.prompt import read_codes
from dalle.text_to_image import TextToImage
from dalle.transformer import Transformer


@torch.inference_mode()
def log_likelihood(
    model: Transformer, tokens: Tensor, codes: Tensor, batch_size: int = 64
) -> Tensor:
    """Log probability of images under captions, in nats: [B].

    Args:
        model: the transformer; dropout is off meanwhile.
        tokens: [B, T] captions.
        codes: [B, RC] images.
        batch_size: images read at a time.

    Raises:
        UserError: a token or code that the model does not know.
    """
    check_tokens(model, tokens)
    check_codes(model, codes)
    device, parts = model.start.device, []
    with evaluating(model):
        for some, own in zip(tokens.split(batch_size), codes.split(batch_size), strict=True):
            own = own.to(device)
            logits = model.logits(some.to(device), own)[1].float()
            each = logits.log_softmax(dim=-1).gather(-1, own[..., None])[..., 0]
            parts.append(each.sum(dim=1))
    return torch.cat(parts)


def likelihood_report(model: TextToImage, caption: str, path: Path) -> str:
    """Return in a sentence how likely an image is under a caption."""
    codes = read_codes(model, path)
    value = log_likelihood(model.transformer, model.tokens([caption]), codes[None]).item()
    return f"{path}: log-likelihood {value:.2f} nats, {value / len(codes):.3f} a code"
