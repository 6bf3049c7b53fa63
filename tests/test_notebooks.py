"""Every notebook runs from top to bottom at its small setting, and says nothing on stderr."""

import csv

import nbformat
import pytest
from commands import REPOSITORY
from nbclient import NotebookClient
from torchvision.models import get_weight

from crescendo.models import list_models

NOTEBOOKS = REPOSITORY / "notebooks"
LONGER = ("architectures", "compare_runs")  # every net there is, and five processes in turn


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=pytest.mark.slow if path.stem in LONGER else ())
        for path in sorted(NOTEBOOKS.glob("*.ipynb"))
    ],
)
def test_runs_at_its_small_setting(name, tmp_path, monkeypatch):
    path = NOTEBOOKS / f"{name}.ipynb"
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    assert parameters.source.startswith("small = False")
    parameters.source = "small = True"
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert any("image/png" in output.get("data", ()) for output in outputs)


def published() -> list[dict[str, str]]:
    with (NOTEBOOKS / "published_accuracy.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_published_accuracies_name_nets_once():
    names = [row["name"] for row in published()]
    assert len(names) == len(set(names))
    assert set(names) <= set(list_models())


def test_published_accuracies_of_torchvision_are_those_of_its_weights():
    checked = 0
    for row in published():
        library, _, weight = row["source"].partition(" ")
        if library == "torchvision":
            weights = get_weight(weight)
            assert float(row["top1"]) == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
            assert [int(row["resolution"])] == weights.transforms().crop_size
            checked += 1
    assert checked == 19
