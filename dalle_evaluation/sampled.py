"""Images sampled for many captions, behind a progress bar."""

from collections.abc import Sequence
from dataclasses import replace

from tqdm import tqdm

from dalle.config import Sampling
from dalle.generate import Progress
from dalle.text_to_image import Samples, TextToImage, join


def sample(
    model: TextToImage, captions: Sequence[str], sampling: Sampling, name: str = "sampling"
) -> Samples:
    """Sample the candidates of each caption, caption i with the seed `sampling.seed` + i."""
    assert isinstance(sampling.seed, int)
    seeds = tuple(sampling.seed + i for i in range(len(captions)))
    count = len(captions) * sampling.candidates
    with tqdm(total=count, desc=name, mininterval=1, dynamic_ncols=True) as bar:

        def show(progress: Progress) -> None:
            bar.update(count * progress.step // progress.steps - bar.n)

        how = replace(sampling, seed=seeds)
        return join(model.batches(captions, how, progress=show))


def counts_up_to(most: int) -> list[int]:
    """Return the numbers of candidates of which the best is looked at: 4, 16, ... and `most`."""
    powers = [4**power for power in range(1, 12)]
    return [*(number for number in powers if number < most), most]
