"""Inception features for FID, by the torch-fidelity library, with weights from a file."""

import importlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dalle_base.common.errors import UserError
from dalle_base.common.images import to_array


class Inception:
    """The network of Heusel et al. 2017 with TensorFlow's weights, as torch-fidelity has them.

    The weights are its file `weights-inception-2015-12-05-6726825d.pth`, or the same as
    safetensors; nothing is downloaded. Raises `UserError` where library or weights are missing.
    """

    def __init__(self, weights: Path) -> None:
        state = _read(weights)
        try:
            library = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
        except ModuleNotFoundError as error:
            raise UserError(
                f'FID needs {error.name}, which is not installed: `pip install -e ".[fid]"`, or '
                "leave out --inception"
            ) from None
        except Exception as error:  # torchvision of another torch fails in ways of its own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"torch-fidelity cannot be imported: {reason}") from None
        # The library opens any pickle that it is given, so it gets one that was written here.
        safe = io.BytesIO()
        torch.save(state, safe)
        safe.seek(0)
        try:
            self.network = library.FeatureExtractorInceptionV3(
                "inception", ["2048"], feature_extractor_weights_path=safe
            )
        except RuntimeError as error:
            lines = str(error).splitlines()
            raise UserError(
                f"--inception {weights} does not hold torch-fidelity's Inception weights: "
                f"{lines[min(1, len(lines) - 1)].strip()[:200]}"
            ) from None

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], batch_size: int = 32) -> np.ndarray:
        """Features [N, 2048] in float64 of images of one size."""
        parts = []
        for first in range(0, len(images), batch_size):
            arrays = [to_array(image) for image in images[first : first + batch_size]]
            (features,) = self.network(torch.from_numpy(np.stack(arrays)))
            parts.append(features.double().numpy())
        return np.concatenate(parts)


def _read(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors, through an allow-list. Raises `UserError`."""
    if not path.is_file():
        raise UserError(f"--inception {path} does not exist: name a file of Inception weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"--inception {path} cannot be read: {str(error).splitlines()[0]}"
        ) from None
    except Exception:  # unpickling fails in many ways, all of them the file's
        raise UserError(f"--inception {path} is damaged, or holds more than weights") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"--inception {path} holds other things than named weights")
    return state
