"""What sample.py answers without sampling: how likely an image is, and what caches take."""

from dalle.likelihood import likelihood_report
from dalle.memory import memory_report
from dalle.request import Request
from dalle.text_to_image import TextToImage


def answer(model: TextToImage, request: Request) -> str:
    """Return the answer to a question about an image or the memory. Raises `UserError`."""
    if request.log_likelihood and request.image:
        return likelihood_report(model, request.text, request.image)
    return memory_report(model.transformer, request.sampling)
