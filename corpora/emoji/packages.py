"""npm packages as tarballs: fetched once, read in place, never unpacked."""

import gzip
import json
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dalle_base.common.errors import UserError


def tarball_name(package: str) -> str:
    """The file name `npm pack` gives a package: `@a/b@1.0` becomes `a-b-1.0.tgz`."""
    return package.removeprefix("@").replace("/", "-").replace("@", "-") + ".tgz"


def fetch(package: str, folder: Path) -> Path:
    """The package's tarball in `folder`, fetched with `npm pack` unless it is there already."""
    tarball = folder / tarball_name(package)
    if tarball.exists():
        return tarball
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"npm is needed to fetch {package} and was not found: install Node.js, "
            f"or put {tarball.name} into {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # Fetched beside its place and then renamed, so that a tarball that is there is whole.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as scratch:
        result = subprocess.run(
            [npm, "pack", package, "--loglevel=error", "--pack-destination=."],
            capture_output=True,
            text=True,
            cwd=scratch,
        )
        fetched = Path(scratch) / tarball.name
        if result.returncode or not fetched.exists():
            said = [line for line in result.stderr.splitlines() if line.strip()]
            reason = f" ({said[0].strip()})" if said else ""
            raise UserError(f"npm could not fetch {package}{reason}: check the network and rerun")
        fetched.replace(tarball)
    return tarball


def fetch_all(packages: list[str], folder: Path) -> list[Path]:
    """The tarballs of all packages, in order; fetching is waiting, so they are fetched together."""
    missing = [name for name in packages if not (folder / tarball_name(name)).exists()]
    with ThreadPoolExecutor(max_workers=len(packages)) as pool:
        fetched = pool.map(lambda name: fetch(name, folder), missing)
        # Nothing to fetch, nothing to show.
        hide = None if missing else True
        list(tqdm(fetched, "fetching", len(missing), unit="package", disable=hide))
    return [folder / tarball_name(name) for name in packages]


def members(tarball: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the tarball's wanted files, in the tarball's order."""
    try:
        with gzip.open(tarball) as file, tarfile.open(fileobj=file) as archive:
            for member in archive:
                content = archive.extractfile(member) if wanted(member.name) else None
                if content is not None:
                    yield member.name, content.read()
            # The checksum comes last: reading on to it finds what was cut off or spoilt.
            while file.read(2**20):
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{tarball} cannot be read to its end: delete it and rerun") from error


def read_json(tarball: Path, name: str) -> Any:
    """One JSON file of the tarball."""
    for _, content in members(tarball, lambda member: member == name):
        return json.loads(content)
    raise UserError(f"{tarball} holds no {name}: delete it and rerun")
