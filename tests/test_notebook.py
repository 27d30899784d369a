"""The notebook is run as it stands, in an empty folder, and what it found is looked at."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "demo.ipynb"

# Run after the last cell, in the same kernel.
LOOK = """
import json
print(json.dumps({
    "accuracy": evaluation["accuracy"]["value"],
    "labels": dataset.test.labels[:10].tolist(),
    "served": served.tolist(),
    "pictures": answer.digits.tolist(),
    "model": answer.model,
}))
"""


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Of the kernel: this checkout's packages, and no traces in the home folder."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    # Threads that wait for each other by spinning take minutes where tests run side by side.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.timeout(300)
def test_every_cell_runs_and_the_digits_are_right(environment, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(LOOK))
    NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(folder)}}).execute()

    found = json.loads(notebook.cells[-1].outputs[-1].text)
    assert found["accuracy"] > 0.95
    assert sum(a == b for a, b in zip(found["served"], found["labels"], strict=True)) >= 9
    assert found["pictures"] == [3, 7]
    assert found["model"] == "compact"
    run = folder / "runs" / "notebook"
    for file in ("best.pt", "report.html", "bundle/manifest.json", "bundle/model.onnx"):
        assert (run / file).is_file(), file
    assert os.listdir(folder) == ["runs"]


def test_it_is_kept_without_outputs():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells if cell.cell_type == "code")


def test_every_cell_of_code_follows_a_cell_of_text():
    kinds = [cell.cell_type for cell in nbformat.read(NOTEBOOK, as_version=4).cells]
    assert kinds[::2] == ["markdown"] * len(kinds[::2])
    assert kinds[1::2] == ["code"] * len(kinds[1::2])
