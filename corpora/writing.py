"""How a corpus is written: whole or not at all, its rows as parquet."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from dalle_base.common.errors import UserError

Row = dict[str, Any]
ROWS_IN_A_GROUP = 256


@contextmanager
def whole_files(out: Path) -> Iterator[Path]:
    """Yield a scratch folder whose files are renamed into the folder `out` at the end.

    An interrupted build leaves an earlier one as it was. Raises `UserError` for a place that cannot
    be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".building-") as scratch:
            yield Path(scratch)
            for file in sorted(Path(scratch).iterdir()):
                file.replace(out / file.name)
    except OSError as error:
        place = error.filename or out
        raise UserError(f"cannot write to {place}: {error.strerror or error}") from error


def header(splits: Iterable[str]) -> str:
    """The head of a corpus's README, by which `datasets` loads the folder by split."""
    files = "\n".join(f"  - split: {split}\n    path: {split}.parquet" for split in splits)
    return f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}\n---\n"


def write_rows(rows: list[Row], features: datasets.Features, file: Path) -> None:
    """Write a split; its schema carries the features, so that `datasets` gives images."""
    table = pa.Table.from_pylist(rows, schema=features.arrow_schema)
    pq.write_table(table, file, row_group_size=ROWS_IN_A_GROUP)
