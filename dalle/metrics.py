"""How well a transformer predicts images that it has not seen."""

import torch
from torch import Tensor

from dalle.transformer import Transformer


@torch.inference_mode()
def held_out_losses(
    model: Transformer, tokens: Tensor, codes: Tensor, batch_size: int = 64
) -> dict[str, float]:
    """Return the image and the text loss of token ids [n, T] and codes [n, RC], in nats a token.

    The image loss is a mean over codes; the text loss a mean over captions' batches.
    """
    device = model.image_head.weight.device
    sums = torch.zeros(2, dtype=torch.float64)
    for first in range(0, len(tokens), batch_size):
        part = slice(first, first + batch_size)
        losses = model.loss(tokens[part].to(device), codes[part].to(device))
        sums += torch.stack([losses.image, losses.text]).double().cpu() * len(tokens[part])
    image, text = (sums / len(tokens)).tolist()
    return {"held_out_image_loss": image, "held_out_text_loss": text}
