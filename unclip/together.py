"""Several processes share the candidates of a DALL-E 2 out, as those of DALL-E 1."""

from typing import Any

import torch

from dalle.together import gathered, share, told
from unclip.model import Decoded, Unclip, join


class Shared(Unclip):
    """Models of which each process has a copy; what the first is asked, all of them sample."""

    def generate(
        self,
        captions: Any,
        candidates: int = 1,
        seed: Any = 0,
        first: int = 0,
        **options: Any,
    ) -> Decoded:
        """Sample as one process does; `progress` is that of the first. One caption at a time."""
        progress = options.pop("progress", None)
        told((captions, candidates, seed, first, options))
        parts = self.sample_share(captions, candidates, seed, first, options, progress)
        return join(part for part in parts if part.images)

    def sample_share(
        self,
        captions: Any,
        candidates: int,
        seed: Any,
        first: int,
        options: dict[str, Any],
        progress: Any = None,
    ) -> list[Decoded]:
        """Sample this process's share; return all shares on the first, nothing on the others."""
        start, own = share(first, candidates)

        def work() -> Decoded:
            if not own:
                return Decoded([], torch.empty(0), [], [], [])
            return super(Shared, self).generate(
                captions, own, seed, start, progress=progress, **options
            )

        return gathered(work)
