"""The notebook runs as it is written."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks/walkthrough.ipynb"


def test_the_notebook_shows_what_it_made() -> None:
    """It is read without being run: every cell that makes something has its output saved."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert NOTEBOOK.stat().st_size < 800_000
    images = 0
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        assert all(output.output_type != "error" for output in outputs)
        images += sum("image/png" in output.get("data", {}) for output in outputs)
    assert images >= 8


@pytest.mark.slow
def test_the_notebook_runs_in_miniature(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    parameters = next(i for i, each in enumerate(tags) if "parameters" in each)
    small = f"MINIATURE, FOLDER = True, {str(tmp_path / 'walk')!r}"
    notebook.cells.insert(parameters + 1, nbformat.v4.new_code_cell(small))
    resources = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    table = (tmp_path / "walk/sparse/table.md").read_text()
    assert "| paper | 2 |" in table
    assert "failed" not in table
