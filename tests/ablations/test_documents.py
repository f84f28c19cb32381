"""The code of docs/fast_lrn.md runs as it stands there, and the notebooks of docs/tutorials say what is true."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
MOST_BYTES = 400_000
CLOCKED = re.compile(r"\d+ images/s|s/it")  # what differs from one execution to the next


def cells_of(path, kind):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def printed(cell):
    """Return what a cell prints or shows as text, without what the clock measured."""
    texts = ["".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream"]
    return [line for text in texts for line in text.splitlines() if not CLOCKED.search(line)]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_the_code_of_the_page_on_lrn_runs(tmp_path):
    for needed in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(needed)
    page = (ROOT / "docs" / "fast_lrn.md").read_text()
    program = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_the_figures_of_the_page_on_lrn_are_those_of_the_benchmarks():
    page, measured = ((ROOT / path).read_text() for path in ("docs/fast_lrn.md", "benchmarks/README.md"))
    for layer, order, short in (
        ("conv1", "channels first", "NCHW"),
        ("conv1", "channels last", "NHWC"),
        ("conv2", "channels first", "NCHW"),
        ("conv2", "channels last", "NHWC"),
    ):
        row = re.search(rf"\| {layer} {short} forward\+backward \| ([\d.]+) \([^)]*\) \| ([\d.]+) ", measured)
        assert re.search(rf"\| {layer},.*{order} \| {row[1]} \| {row[2]} \|", page), (layer, order)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_executed_small_and_without_paths_of_its_maker(path):
    text = path.read_text()
    assert len(text) < MOST_BYTES
    assert not re.search(r"/(home|tmp|root|work|Users)/", text)
    code = cells_of(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("<img" in "".join(output.get("data", {}).get("text/html", "")) for output in outputs) >= 2
    assert sum("assert " in "".join(cell["source"]) for cell in code) >= 4


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_executed_anew_holds_what_it_says(path, tmp_path):
    """Its asserts pass, and it prints what it printed when it was kept."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    anew = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for kept, cell in zip(cells_of(path, "code"), anew, strict=True):
        assert len(printed(kept)) == len(printed(cell)), cell.source
