"""What is said in ablations/results follows from the rows that are kept there."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

RESULTS = Path(__file__).parents[2] / "ablations" / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/results.csv"))
CHANGE = re.compile(
    r"(?m)^\| (\w+): (\S+) → (\S+?)(?:, all else changed)? \| "
    r"([+-][\d.]+) \| \[([+-][\d.]+), ([+-][\d.]+)\] \| (\d+) \|"
)


def rows_of(folder):
    return pd.read_csv(folder / "results.csv", keep_default_na=False, na_values={"test_accuracy": [""]}, dtype=str)


def differences(rows, study, field, before, after):
    """Return points of accuracy per seed without the package's help: of marginal means, or of one cell and another."""
    rows = rows.assign(points=100 * rows["test_accuracy"].astype(float))
    factors = [column for column in rows.columns if column in study["factors"]]
    others = [name for name in factors if name != field]
    if study["design"] != "factorial" and others:  # beside the others' baselines, or beside their changes
        beside = study["baseline"] if study["design"] == "one-at-a-time" else study["factors"]
        levels = {name: beside[name][0] if isinstance(beside[name], list) else beside[name] for name in others}
        rows = rows[np.logical_and.reduce([rows[name] == str(level) for name, level in levels.items()])]
    wide = rows.pivot_table(index="seed", columns=field, values="points", aggfunc="mean")
    return (wide[after] - wide[before]).dropna().to_numpy()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_effects_of_a_kept_study_are_those_of_its_rows(folder):
    study = tomllib.loads((folder / "study.toml").read_text())
    assert study["design"] in ("factorial", "one-at-a-time", "leave-one-out")
    rows = rows_of(folder)
    assert (rows["state"] == "ok").all()
    told = CHANGE.findall((folder / "tables.md").read_text())
    assert told
    for field, before, after, mean, low, high, pairs in told:
        found = differences(rows, study, field, before, after)
        interval = stats.ttest_1samp(found, 0).confidence_interval(0.95)
        assert len(found) == int(pairs)
        assert found.mean() == pytest.approx(float(mean), abs=0.051)
        assert interval.low == pytest.approx(float(low), abs=0.051)
        assert interval.high == pytest.approx(float(high), abs=0.051)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_nothing_of_a_busy_machine_is_kept(folder):
    assert not {"train_seconds", "images_per_second", "measuring_share"} & set(rows_of(folder).columns)


def test_the_readme_quotes_what_the_studies_say():
    said = (RESULTS / "README.md").read_text()
    pages = [folder / "README.md" for folder in FOLDERS] + [RESULTS.parents[1] / "docs" / "evidence.md"]
    kept = " ".join(" ".join(page.read_text() for page in pages).split())
    quoted = re.findall(r"`([^`]*n=\d+ pairs[^`]*)`", said)
    assert quoted
    for sentence in quoted:
        assert " ".join(sentence.split()) in kept
    for folder in FOLDERS:
        assert f"({folder.name}/" in said


def test_every_figure_that_is_shown_is_kept():
    for page in RESULTS.rglob("README.md"):
        for figure in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / figure).is_file(), f"{page}: {figure}"
