"""Metrics by name: of reconstructions, and of sampled images.

ADD A METRIC = one file in this folder and one line in the table of what it looks at. The file has a
function `measure` from what it is given (base.py) to figures by name: each an array with one value
for each image, whose mean is the figure, or `OfMean`. Every figure then has an interval, is printed
and written by evaluate.py; those of METRICS have the same of real images beside them.
"""

from collections.abc import Callable

from dalle_base.common.registry import Registry
from dalle_evaluation.intervals import Values
from dalle_evaluation.metrics.base import Pairs, Rebuilt

RECONSTRUCTION_METRICS: Registry[Callable[[Rebuilt], dict[str, Values]]] = Registry(
    {
        "elb": "dalle_evaluation.metrics.elb:measure",
        "psnr": "dalle_evaluation.metrics.psnr:measure",
        "ssim": "dalle_evaluation.metrics.ssim:measure",
        "codes": "dalle_evaluation.metrics.codes:measure",
        "lite0": "dalle_evaluation.metrics.lite0:measure",
    }
)
"""Of a tokenizer, on held-out images: `--config`. Batch by batch; the values are joined."""
METRICS: Registry[Callable[[Pairs], dict[str, Values]]] = Registry(
    {
        "clip_score": "dalle_evaluation.metrics.clip_score:measure",
        "cosine": "dalle_evaluation.metrics.cosine:measure",
        "recall": "dalle_evaluation.metrics.recall:measure",
        "diversity": "dalle_evaluation.metrics.diversity:measure",
        "nearest": "dalle_evaluation.metrics.nearest:measure",
    }
)
"""Of sampled images: `--scores`."""
