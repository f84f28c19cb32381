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
    r"([+-][\d.]+) \| \[([+-][\d.]+), ([+-][\d.]+)\] \|(?: \[[^]]*\] \|)? (\d+) \|"
)


def rows_of(folder):
    return pd.read_csv(folder / "results.csv", keep_default_na=False, na_values={"test_accuracy": [""]}, dtype=str)


def compared(rows, study, field):
    """Return the rows in which only that factor differs, where the design changes one at a time; all rows else."""
    others = [column for column in rows.columns if column in study["factors"] and column != field]
    if study["design"] == "factorial" or not others:
        return rows
    # Beside the others' baselines, or beside their changes.
    beside = study["baseline"] if study["design"] == "one-at-a-time" else study["factors"]
    levels = {name: beside[name][0] if isinstance(beside[name], list) else beside[name] for name in others}
    return rows[np.logical_and.reduce([rows[name] == str(level) for name, level in levels.items()])]


def differences(rows, study, field, before, after):
    """Return points of accuracy per seed without the package's help: of marginal means, or of one cell and another."""
    rows = compared(rows.assign(points=100 * rows["test_accuracy"].astype(float)), study, field)
    wide = rows.pivot_table(index="seed", columns=field, values="points", aggfunc="mean")
    return (wide[after] - wide[before]).dropna().to_numpy(), wide[before].mean()


def right_of(folder):
    """Return by cell and seed which images were answered right, or nothing of studies kept before answers were."""
    path = folder / "answers.csv"
    if not path.exists():
        return {}
    rows = pd.read_csv(path, keep_default_na=False)
    return {
        (row.cell, row.seed): np.unpackbits(np.frombuffer(bytes.fromhex(row.right), np.uint8), count=row.images)
        for row in rows.itertuples()
    }


def interval_over_seeds_and_images(table):
    """Return mean and 95% interval of differences by seed and image: docs/evidence.md, by loops."""
    seeds, images = table.shape
    mean = table.mean()
    of_seeds = images * sum((row.mean() - mean) ** 2 for row in table) / (seeds - 1)
    effects = np.array([column.mean() - mean for column in table.T])
    of_images = seeds * (effects**2).sum() / (images - 1)
    of_seed, of_image = [row.mean() for row in table], [column.mean() for column in table.T]
    rest = sum((table[i, j] - of_seed[i] - of_image[j] + mean) ** 2 for i in range(seeds) for j in range(images)) / (
        (seeds - 1) * (images - 1)
    )
    excess = max((effects**4).mean() / (effects**2).mean() ** 2 - 3, 0)
    degrees_of_images = 2 / (2 / (images - 1) + excess / images)
    total = of_seeds + max(of_images - rest, 0)
    degrees = total**2 / (
        of_seeds**2 / (seeds - 1) + of_images**2 / degrees_of_images + rest**2 / ((seeds - 1) * (images - 1))
    )
    half = max(
        stats.t.ppf(0.975, max(degrees, 1)) * np.sqrt(total / (seeds * images)),
        stats.t.ppf(0.975, seeds - 1) * np.sqrt(of_seeds / (seeds * images)),
    )
    return mean - half, mean + half


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_effects_of_a_kept_study_are_those_of_its_rows(folder):
    study = tomllib.loads((folder / "study.toml").read_text())
    assert study["design"] in ("factorial", "one-at-a-time", "leave-one-out")
    rows = rows_of(folder)
    assert (rows["state"] == "ok").all()
    told = CHANGE.findall((folder / "tables.md").read_text())
    assert told
    right = right_of(folder)
    for row in rows.itertuples():
        if right:
            assert right[row.cell, int(row.seed)].mean() == pytest.approx(float(row.test_accuracy))
    for field, before, after, mean, low, high, pairs in told:
        found, at_before = differences(rows, study, field, before, after)
        if right and (study["design"] == "one-at-a-time" or len(study["factors"]) == 1):
            cells = compared(rows, study, field).groupby(field)["cell"].first()
            seeds = sorted({seed for _, seed in right})
            table = [right[cells[after], seed].astype(float) - right[cells[before], seed] for seed in seeds]
            ends = interval_over_seeds_and_images(100 * np.stack(table))
        else:
            ends = stats.ttest_1samp(found, 0).confidence_interval(0.95)
        assert len(found) == int(pairs)
        assert found.mean() == pytest.approx(float(mean), abs=0.051)
        if right:  # of accuracies between 0 and 100%; earlier versions wrote what is not possible, too
            ends = np.clip(ends, -at_before, 100 - at_before)
        assert ends[0] == pytest.approx(float(low), abs=0.051)
        assert ends[1] == pytest.approx(float(high), abs=0.051)


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
