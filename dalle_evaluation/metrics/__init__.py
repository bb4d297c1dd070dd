"""Metrics of sampled images, by name.

ADD A METRIC = one file in this folder and one line in METRICS. The file has a function `measure`
from `Pairs` to figures by name, each an array of one value for each image; every figure then has an
interval, and the same of real images beside it, in `evaluate.py --scores`.
"""

from collections.abc import Callable

import numpy as np

from dalle_base.common.registry import Registry
from dalle_evaluation.metrics.base import Pairs

METRICS: Registry[Callable[[Pairs], dict[str, np.ndarray]]] = Registry(
    {
        "clip_score": "dalle_evaluation.metrics.clip_score:measure",
        "cosine": "dalle_evaluation.metrics.cosine:measure",
        "recall": "dalle_evaluation.metrics.recall:measure",
    }
)
