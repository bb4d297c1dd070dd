"""The notebook: it runs, and what is saved in it is the output of what is written in it."""

import asyncio
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks/walkthrough.ipynb"


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.slow
def test_the_notebook_runs_in_miniature(tmp_path: Path) -> None:
    notebook = read()
    place = next(
        number for number, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])
    )
    small = nbformat.v4.new_code_cell(f"MINIATURE, FOLDER = True, {str(tmp_path / 'walk')!r}")
    notebook.cells.insert(place + 1, small)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "notebooks")}})
    client.execute()
