"""Models to and from the Hugging Face hub, in its conventions.

python -m dalle_published.hub push runs/my-dalle/model USER/NAME --license mit

A folder of the hub holds what a model's folder does, a config.json, and a card with a header.
"""

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dalle_base.common.config import dump_yaml, parse_yaml, read_yaml
from dalle_base.common.errors import UserError, command
from dalle_base.common.hub import FILES, PREFIX, locate
from dalle_base.common.model_folders import (
    CONFIG,
    DUAL_ENCODER,
    TEXT_TO_IMAGE,
    TOKENIZER,
    UNCLIP,
    find_model,
    kind_of,
)

if TYPE_CHECKING:
    import torch

CARD, LIBRARY, ENCODER = "README.md", "dalle-from-scratch", "dual_encoder"
TASKS = {
    TEXT_TO_IMAGE: "text-to-image",
    UNCLIP: "text-to-image",
    DUAL_ENCODER: "zero-shot-image-classification",
    TOKENIZER: "image-feature-extraction",
}
"""The hub's names for what our kinds of models do."""
HEADER = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)


def from_pretrained(
    name: str | Path, revision: str | None = None, device: "torch.device | str" = "cpu"
) -> Any:
    """Return the model of a name on the hub, or of a folder, whatever its kind.

    Args:
        name: "user/name", "hf:user/name/folder", or a folder that is there.
        revision: a branch, tag or commit of the hub's.
        device: where it is to be.

    Returns:
        A `TextToImage`, an `Unclip`, an `ImageTokenizer` or a `Ranker`.

    Raises:
        UserError: no such model, or none that can be reached.
    """
    place = str(name)
    if not place.startswith(PREFIX) and not Path(place).exists():
        place = PREFIX + place
    if revision is not None:
        if not place.startswith(PREFIX):
            raise UserError(f"{name} is a folder, which has no revisions")
        place = re.sub(r"^(hf:[^/@]+/[^/@]+)(@[^/]+)?", rf"\1@{revision}", place)
    folder = find_model(locate(place))
    kind = kind_of(folder)
    if kind not in LOADERS:
        raise UserError(f"{name} is no model of ours: its {CONFIG} does not say of what kind")
    return LOADERS[kind](folder).to(device)


def _text_to_image(folder: Path) -> Any:
    from dalle.checkpoint import load_text_to_image

    return load_text_to_image(folder)


def _unclip(folder: Path) -> Any:
    from unclip.model import load_unclip

    return load_unclip(folder)


def _tokenizer(folder: Path) -> Any:
    from dvae.checkpoint import load_tokenizer

    return load_tokenizer(folder)[0]


def _dual_encoder(folder: Path) -> Any:
    from dual_encoder.checkpoint import load_dual_encoder

    return load_dual_encoder(folder)


LOADERS: dict[str, Callable[[Path], Any]] = {
    TEXT_TO_IMAGE: _text_to_image,
    UNCLIP: _unclip,
    TOKENIZER: _tokenizer,
    DUAL_ENCODER: _dual_encoder,
}


def push_to_hub(
    folder: Path, name: str, license_name: str = "", private: bool = False, message: str = ""
) -> str:
    """Put a model's folder on the hub, where whoever is logged in may write; return its address.

    Args:
        folder: of a model; it is read first, so that nothing damaged goes out.
        name: "user/name"; made where it is not there.
        license_name: for the card's header, where the card says none.
        private: whether a new one is.
        message: of the commit.

    Raises:
        UserError: no model, a card without a licence, or a hub that refuses.
    """
    from huggingface_hub import HfApi, errors

    folder = find_model(folder)
    kind = kind_of(folder)
    if kind not in LOADERS:
        raise UserError(
            f"{folder} is no model that can be sampled: its {CONFIG} says nothing of it"
        )
    LOADERS[kind](folder)
    api = HfApi()
    with tempfile.TemporaryDirectory() as place:
        stage(folder, Path(place), kind, license_name)
        try:
            api.create_repo(name, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=name, folder_path=place, commit_message=message or f"{kind} by {LIBRARY}"
            )
        except errors.HFValidationError as error:
            raise UserError(f"{name} is no name of the hub: {error}") from None
        except (errors.HfHubHTTPError, errors.LocalTokenNotFoundError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"the hub does not take {name} ({reason}): log in by `hf auth login`"
            ) from None
    return str(getattr(done, "commit_url", done))


def stage(folder: Path, target: Path, kind: str, license_name: str = "") -> None:
    """Copy into a folder what goes onto the hub. Raises `UserError` for a card without licence."""
    _copy(folder, target)
    if kind == UNCLIP:  # whose dual encoder may be another model's
        saved = read_yaml(folder / CONFIG)
        _copy(folder / saved["unclip"], target / ENCODER)
        (target / CONFIG).write_text(dump_yaml(saved | {"unclip": ENCODER}), encoding="utf-8")
    config = {"library_name": LIBRARY, "model_type": kind, "config": read_yaml(target / CONFIG)}
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    (target / CARD).write_text(card(folder, kind, license_name), encoding="utf-8")


def _copy(folder: Path, target: Path) -> None:
    for pattern in FILES:
        for path in folder.rglob(pattern):
            place = target / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)


def card(folder: Path, kind: str, license_name: str = "") -> str:
    """Return a model's card, with what the hub asks for in its header. Raises `UserError`."""
    path = folder / CARD
    text = path.read_text("utf-8") if path.is_file() else f"# {folder.resolve().name}\n"
    found = HEADER.match(text)
    header = parse_yaml(found[1]) if found else {}
    body = text[found.end() :] if found else text
    if license_name:
        header["license"] = license_name
    if not header.get("license"):
        raise UserError(
            f"{path} says no license: in its header, or by --license (mit, cc-by-4.0, ...)"
        )
    header |= {"library_name": LIBRARY, "pipeline_tag": TASKS[kind]}
    header.setdefault("tags", [kind.replace(" ", "-"), "dall-e"])
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    return f"---\n{lines}\n---\n{body}"


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dalle_published.hub", description=__doc__)
    parser.add_argument("what", choices=["push"], help="push a folder onto the hub")
    parser.add_argument("folder", type=Path, help="of a model")
    parser.add_argument("name", help="USER/NAME on the hub")
    parser.add_argument("--license", default="", help="where the card's header says none")
    parser.add_argument("--private", action="store_true", help="a new one is for its owner alone")
    parser.add_argument("--message", default="", help="of the commit")
    options = parser.parse_args()
    print(
        push_to_hub(options.folder, options.name, options.license, options.private, options.message)
    )


if __name__ == "__main__":
    raise SystemExit(main())
