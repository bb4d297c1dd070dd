"""Models of the Hugging Face hub by name, `hf:USER/NAME[@REVISION][/FOLDER]`. Needs no torch."""

import functools
import re
from pathlib import Path

from dalle_base.common.checkout import in_checkout
from dalle_base.common.errors import UserError

PREFIX = "hf:"
FILES = ("*.safetensors", "*.yaml", "*.json")
"""What is fetched: weights and what describes them, nothing that could be run."""
_NAME = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?"
    r"(?P<folder>(?:/(?!\.\.?(?:/|$))[\w.-]+)*)",
    re.ASCII,
)


def locate(place: str | Path) -> Path:
    """Return where a model's folder is: fetched from the hub, in the checkout, or as it is named.

    Raises `UserError` for what cannot be fetched.
    """
    return fetch(str(place)) if str(place).startswith(PREFIX) else in_checkout(place)


@functools.cache
def fetch(name: str) -> Path:
    """Return a folder of the hub's cache that holds a model, after fetching what is new of it.

    `huggingface_hub` decides where from (HF_ENDPOINT), where to (HF_HOME) and whether it asks at
    all (HF_HUB_OFFLINE). Raises `UserError`.
    """
    found = _NAME.fullmatch(name)
    if not found:
        raise UserError(f"{name[:200]} is no name of the hub: write hf:USER/NAME, or ...@REVISION")
    from huggingface_hub import errors, snapshot_download

    repo, revision = found["repo"], found["revision"]
    try:
        folder = snapshot_download(repo, revision=revision, allow_patterns=list(FILES))
    except errors.HFValidationError:
        raise UserError(f"{name} is no name of the hub: write hf:USER/NAME") from None
    except errors.GatedRepoError:
        raise UserError(
            f"{name}: its owner asks you to agree to terms first, on its page, and to log in"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: {repo} has no revision {revision}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{name}: the hub has no such model, or it is private and you have not logged in"
        ) from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{name} is not in the cache and cannot be fetched ({_reason(error)}): connect to the "
            "network, or name a folder"
        ) from None
    return Path(folder, *found["folder"].split("/"))


def _reason(error: BaseException) -> str:
    """The first line of what led to an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
