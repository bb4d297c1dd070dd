"""Checkpoint folders: written whole or not at all, read with clear errors, never an open pickle.

A model folder holds `model.safetensors` and `config.yaml` and needs nothing else. A run's
checkpoint adds `training.pt`: optimiser state and counters, read with `weights_only=True`.
"""

import hashlib
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dalle_base.common.errors import UserError
from dalle_base.common.fingerprints import check_seal
from dalle_base.common.model_folders import CONFIG, WEIGHTS, find_model

TRAINING = "training.pt"


def write_model(
    folder: Path,
    state: Mapping[str, Tensor],
    config_yaml: str,
    metadata: dict[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write weights and config into an existing folder; floating tensors in `dtype` if given."""
    tensors = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        for name, tensor in state.items()
    }
    save_file(tensors, folder / WEIGHTS, metadata=metadata)
    (folder / CONFIG).write_text(config_yaml, encoding="utf-8")
    # safetensors lets only the owner read what it writes; models are there to be shared.
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return a model folder's tensors. Raises `UserError` if they are missing or damaged."""
    path = find_model(folder) / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged or truncated ({reason}); copy it again") from None


def read_metadata(folder: Path) -> dict[str, str]:
    """Return the strings stored beside a model folder's tensors."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder / WEIGHTS} cannot be read: {reason}") from None


def load_into(model: nn.Module, state: Mapping[str, Tensor], name: str | Path) -> None:
    """Copy tensors into a model of the same shapes, converting the type.

    Raises `UserError` that names the first tensor which does not fit.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unknown = [key for key in state if key not in own]
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has an unknown {unknown[0]}"
        raise UserError(f"{name} is not a checkpoint of this model: it {what}; check its config")
    for key, tensor in own.items():
        if tensor.shape != state[key].shape:
            raise UserError(
                f"{name}: {key} is {list(state[key].shape)}, this config needs {list(tensor.shape)}"
            )
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(state[key])


def start_from(model: nn.Module, folder: Path) -> None:
    """Copy a folder's weights into a model of the same size. Raises `UserError`."""
    load_into(model, read_weights(folder), folder)
    check_seal(folder, names=(WEIGHTS,))


def read_training_state(folder: Path) -> dict[str, Any]:
    """Return optimiser state and counters of a run's checkpoint. Raises `UserError` if damaged."""
    path = folder / TRAINING
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look whether bits have changed
            if bad := archive.testzip():
                raise ValueError(f"{bad} has changed since it was written")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} is damaged ({reason}); delete {folder} to go on from an earlier checkpoint, "
            "if run.keep_last has kept one, or else to start anew"
        ) from None


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return a short hash of a model's weights as they ship (bfloat16), to know it again by."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        tensor = state[name].detach().cpu().to(torch.bfloat16).flatten().contiguous()
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
