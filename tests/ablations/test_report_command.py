"""alexnet-lab report: what it writes, what it refuses, and what it costs to ask for help."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from alexnet_ablations.cli.application import application
from alexnet_ablations.declare.study import declare_study
from alexnet_ablations.report.writing import write_inspections


def report(*words):
    return CliRunner().invoke(application, ["report", *map(str, words)])


@pytest.fixture
def study(tmp_path):
    """Two cells under one seed, without instruments."""
    start = {"data": "digits", "epochs": 1, "threads": 1, "device": "cpu"}
    made = declare_study({"norm": ["bn"]}, start, tmp_path / "study", seeds=1).open_folder()
    for at, run in enumerate(made.runs()):
        run.folder.begin(run.recipe.to_json(), {"classes": ["a", "b"], "alexnet_lab": "0"}, json.dumps({"train": [0]}))
        run.folder.log({"epoch": 1, "step": 5, "train_loss": 0.7, "validation_accuracy": 0.5 + at / 10})
        part = {"accuracy": 0.5 + at / 10, "images": 4, "confusion": [[1, 1], [1, 1]], "recall": [0.5, 0.5]}
        run.folder.end("ok", result={"tested_epoch": 1, "epochs": 1, "steps": 5, "test": part, "validation": part})
    return made


def test_it_prints_where_the_page_is(study):
    result = report(study.folder)
    assert result.exit_code == 0, result.output
    assert result.output.replace("\n", "").strip().endswith("report/index.html")
    assert "+10.0 points under one seed" in (study.folder / "report" / "index.html").read_text()


def test_it_names_the_runs_with_damaged_records(study):
    (study.runs()[1].folder.path / "metrics.jsonl").unlink()
    result = report(study.folder)
    assert result.exit_code == 0, result.output
    assert "1 run has damaged records: norm=bn under seed 0 (metrics.jsonl); the same command makes it again" in (
        " ".join(result.output.split())
    )
    rows = (study.folder / "report" / "results.csv").read_text().splitlines()
    assert rows[2].startswith("norm=bn,bn,0,damaged,metrics.jsonl,")


def test_a_second_report_is_the_same_page(study):
    report(study.folder)
    first = (study.folder / "report" / "index.html").read_bytes()
    report(study.folder)
    assert (study.folder / "report" / "index.html").read_bytes() == first


def test_one_run_of_each_cell_is_inspected_when_asked_and_linked(study):
    assert report(study.folder, "--inspect", "cells").exit_code == 0
    page = (study.folder / "report" / "index.html").read_text()
    for run in study.runs():
        assert (run.folder.path / "report" / "index.html").exists()
    assert page.count("inspection</a>") == 2


def test_a_run_with_a_page_newer_than_its_records_is_not_inspected_again(study):
    assert len(write_inspections(study, only_first=False)) == 2
    assert write_inspections(study, only_first=False) == []
    study.runs()[1].folder.end("diverged", "later")
    again = write_inspections(study, only_first=False)
    assert [path.parents[2].name for path in again] == ["norm=bn"]


def refused(*words):
    result = report(*words)
    assert isinstance(result.exception, ValueError)
    return str(result.exception)


def test_a_folder_without_a_study_is_refused(tmp_path):
    assert "holds no study.toml; name the folder of a study" in refused(tmp_path)


def test_a_run_is_refused_with_the_command_that_looks_into_it(study):
    assert "alexnet-lab inspect looks into it" in refused(study.runs()[0].folder.path)


def test_an_unknown_choice_of_runs_names_the_nearest(study):
    assert "Did you mean 'cells'?" in refused(study.folder, "--inspect", "cell")


def test_help_loads_nothing_heavy():
    program = (
        "import sys\nfrom alexnet_ablations.cli import main\nsys.argv = ['alexnet-lab', 'report', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
