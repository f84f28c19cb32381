"""What a table or a path calls a patient is written nowhere; patients are told apart and matched all the same."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from quick_runs import SMALL
from typer.testing import CliRunner

from alexnet_ablations.cli.application import application
from alexnet_lab.data.feed import open_feed
from alexnet_lab.data.pseudonyms import order_of, pseudonyms
from alexnet_lab.data.splits import split_images
from alexnet_lab.evaluation.evaluating import evaluate_run
from alexnet_lab.predictions_file import read_predictions, write_predictions
from alexnet_lab.records import RunFolder
from alexnet_lab.training.run import train_with_verdict

pytestmark = pytest.mark.usefixtures("own_cache")

SURNAME = "Lovelace"


def make_table(root, columns="path,label,Patient ID", part=lambda _patient, _at: ""):
    """Write two images of each of 30 patients, of two classes, and a table that names the patients."""
    generator = np.random.default_rng(0)
    rows = [columns]
    for at in range(60):
        patient = 29 - at // 2
        level = 60 + 120 * (patient % 2)
        Image.fromarray(generator.integers(level - 50, level + 50, (16, 16)).astype(np.uint8)).save(root / f"{at}.png")
        rows.append(f"{at}.png,{'ab'[patient % 2]},{SURNAME}-{patient:04}{part(patient, at)}")
    (root / "scans.csv").write_text("\n".join(rows))
    return root / "scans.csv"


def written(root):
    """Yield every file below a folder but the data, and the members of those that are archives."""
    for path in root.rglob("*"):
        if path.is_file() and path.parent != root:
            yield str(path.relative_to(root)), path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    for name in archive.namelist():
                        yield f"{path.name}/{name}", archive.read(name)


def naming(root):
    """Return the files whose name or content has the patients' own name, as UTF-8 or as NumPy stores text."""
    return [
        name
        for name, content in written(root)
        if SURNAME in name or SURNAME.encode() in content or SURNAME.encode("utf-32-le") in content
    ]


def command(*words):
    return CliRunner().invoke(application, [*map(str, words)])


def test_no_record_audit_or_cache_has_a_patients_own_name(tmp_path):
    table = make_table(
        tmp_path, "path,label,Patient ID,split", lambda _patient, at: f",{'train' if at % 9 else 'test'}"
    )
    audited = command("audit", table, "--group", "patient", "--out", tmp_path / "audit")
    assert audited.exit_code == 1
    assert "patients in two parts of the split" in " ".join(audited.output.split())
    assert SURNAME not in audited.output
    recipe = replace(SMALL, data=str(table), group="patient", epochs=1)
    assert train_with_verdict(recipe, RunFolder(tmp_path / "run")) == 0
    assert {"audit/audit.json", "run/predictions.npz", "run/state.json"} <= {name for name, _ in written(tmp_path)}
    assert naming(tmp_path) == []
    # What a reader of the audit needs to find the patient in the table: the images.
    facts = json.loads((tmp_path / "audit/audit.json").read_text())["patients"]
    assert len(facts["on_two_sides"]) == 7
    assert sorted(facts["images"][patient] for patient in facts["on_two_sides"]) == sorted(
        [f"{at}.png ({'train' if at % 9 else 'test'}, {'ab'[(29 - at // 2) % 2]})" for at in pair]
        for pair in ((at, at + 1) for at in range(0, 60, 2))
        if not (pair[0] % 9 and pair[1] % 9)
    )


@pytest.mark.long
def test_no_page_or_table_made_from_a_run_has_a_patients_own_name(tmp_path):
    recipe = replace(SMALL, data=str(make_table(tmp_path)), group="patient", epochs=1)
    assert train_with_verdict(recipe, RunFolder(tmp_path / "run")) == 0
    for words in (("evaluate", "--replicates", 200), ("inspect",), ("export", "--to", "csv")):
        done = command(words[0], tmp_path / "run", *words[1:])
        assert done.exit_code == 0, done.output
        assert SURNAME not in done.output
    assert any(name.endswith("predictions.csv") for name, _ in written(tmp_path))
    assert naming(tmp_path) == []


def test_a_refused_split_names_no_patient(tmp_path):
    table = make_table(tmp_path, "path,label,group,split", lambda _patient, at: f",{'train' if at % 9 else 'test'}")
    assert train_with_verdict(replace(SMALL, data=str(table)), RunFolder(tmp_path / "run")) == 1
    why = RunFolder(tmp_path / "run").verdict()["why"]
    assert "7 groups are in two parts of the given split (`alexnet-lab audit` lists their images)" in why
    assert naming(tmp_path) == []


@pytest.mark.parametrize(
    "settings", [{"group": "patient"}, {"patient_from": rf"{SURNAME}-(\d+)"}], ids=["column", "path"]
)
def test_splits_are_those_by_the_patients_own_names(settings, tmp_path):
    table = make_table(tmp_path)
    names = [line.split(",")[2] for line in table.read_text().splitlines()[1:]]
    if "patient_from" in settings:  # the same, from a folder whose files are named after patients
        for at, name in enumerate(names):
            place = tmp_path / "folder" / "ab"[at // 2 % 2] / f"{name}_{at % 2}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / f"{at}.png").rename(place)
    data = tmp_path / "folder" if "patient_from" in settings else table
    feed = open_feed(str(data), image_size=16, **settings)
    own = np.array([name.partition("_")[0].rpartition("/")[2] for name in feed.names] if data != table else names)
    expected = split_images(feed.labels.numpy(), feed.classes, groups=own)
    for part in ("train", "validation", "test"):
        assert getattr(feed.split, part).tolist() == getattr(expected, part).tolist()
    assert feed.groups.tolist() == open_feed(str(data), image_size=16, **settings).groups.tolist()  # from the cache
    assert (order_of(feed.groups)[:, None] == order_of(feed.groups)).tolist() == (own[:, None] == own).tolist()
    assert not any(SURNAME in name for name in feed.groups)


def test_names_are_those_of_one_column_of_one_table():
    owners = np.array(["7", "70", "7", "0"])
    images = ["a.png", "b.png", "c.png", "d.png"]
    names = pseudonyms(owners, images)
    assert names[0] == names[2]
    assert len(set(names)) == 3
    assert pseudonyms(owners, images).tolist() == names.tolist()
    others = [pseudonyms(np.array(["7", "70", "7", "1"]), images), pseudonyms(owners, [*images[:3], "e.png"])]
    assert not set(names) & set(others[0]) and not set(names) & set(others[1])
    assert order_of(owners).tolist() == [1, 2, 1, 0]


def test_a_run_that_recorded_own_names_is_evaluated_as_before(tmp_path):
    table = make_table(tmp_path)
    recipe = replace(SMALL, data=str(table), group="patient", epochs=1)
    assert train_with_verdict(recipe, RunFolder(tmp_path / "run")) == 0
    folder = RunFolder(tmp_path / "run")
    own = np.array([line.split(",")[2] for line in table.read_text().splitlines()[1:]])
    parts = read_predictions(folder.path / "predictions.npz")
    older = {name: replace(part, groups=own[part.ids]) for name, part in parts.items()}
    for name, part in parts.items():
        assert (order_of(part.groups)[:, None] == order_of(part.groups)).tolist() == (
            own[part.ids][:, None] == own[part.ids]
        ).tolist(), name
    write_predictions(folder.path / "predictions.npz", older, ("a", "b"))
    assert "predictions.npz/groups.npy" in naming(tmp_path)  # so that the tests above would see it
    verdict = folder.verdict()
    folder.end("ok", result=verdict["result"])  # with the digests of these files
    with_data = evaluate_run(folder.path, replicates=200).test
    table.rename(tmp_path / "elsewhere.csv")
    without = evaluate_run(folder.path, replicates=200).test
    assert with_data.unit == without.unit == "patients"
    assert with_data.figures["accuracy"] == without.figures["accuracy"]
