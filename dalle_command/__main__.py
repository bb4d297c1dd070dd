"""`dalle sample ...` is `python sample.py ...`: the same code, installed or in a checkout."""

import dalle_base.common.interrupts  # noqa: F401  # isort: skip  # first of all

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version

from dalle_base.common.checkout import CHECKOUT
from dalle_base.common.errors import UserError, command

SCRIPTS = {
    "sample": "images for captions",
    "guide": "an image, guided by CLIP",
    "classify": "which of several labels fits an image",
    "search": "images in folders, by caption or by image",
    "app": "a page in the browser",
    "evaluate": "figures of a model",
}
TRAININGS = {
    "dvae": "an image tokenizer: dVAE or VQGAN",
    "dalle": "the transformer over its codes",
    "clip": "a dual encoder",
    "prior": "DALL-E 2's prior",
    "decoder": "DALL-E 2's decoder",
}


def usage() -> str:
    """Return what the command can do."""
    lines = ["usage: dalle COMMAND ...", ""]
    lines += [f"  {name:<15} {said}" for name, said in SCRIPTS.items()]
    lines += [f"  {'train ' + name:<15} {said}" for name, said in TRAININGS.items()]
    return "\n".join([*lines, "", "dalle COMMAND --help says more; dalle --version says which."])


def choose(arguments: list[str]) -> tuple[str, list[str]]:
    """Return the script that is meant, and its own arguments. Raises `UserError` for none."""
    name, *rest = arguments or [""]
    if name == "train":
        kind, *rest = rest or [""]
        if kind not in TRAININGS:
            raise UserError(f"dalle train {kind}: write one of {', '.join(TRAININGS)} behind train")
        return f"train_{kind}", rest
    if name not in SCRIPTS:
        known = ", ".join([*SCRIPTS, "train"])
        raise UserError(f"dalle {name}: there is no such command; there are {known}")
    return name, rest


@command
def main() -> int:
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] == "--version":
        print(f"dalle-from-scratch {installed_version()}")
        return 0
    script, rest = choose(words)
    # Scripts stand at the top of the checkout, where they also find one another.
    sys.path.insert(0, str(CHECKOUT))
    sys.argv = [f"dalle {script.replace('_', ' ')}", *rest]
    return importlib.import_module(script).main()


def installed_version() -> str:
    """Return the version that is installed."""
    try:
        return version("dalle-from-scratch")
    except PackageNotFoundError:
        return "that is not installed"


if __name__ == "__main__":
    raise SystemExit(main())
