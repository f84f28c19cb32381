"""alexnet-lab audit says what must be fixed, writes a page and JSON, and ends with a status for scripts."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps
from typer.testing import CliRunner

from alexnet_ablations.cli.application import application


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))


def picture(number, side=96):
    rng = np.random.default_rng(number)
    layers = [Image.fromarray(rng.integers(0, 256, (cells, cells)).astype(np.uint8)) for cells in (4, 8, 16, 32)]
    return Image.fromarray(
        np.mean([np.asarray(one.resize((side, side), Image.Resampling.BICUBIC), float) for one in layers], 0).astype(
            np.uint8
        )
    )


def make_set(root, each=20, part=""):
    for class_number, name in enumerate(("ill", "well")):
        for number in range(each):
            place = root / part / name / f"person{number}_{name}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            picture(1000 * class_number + number + 5000 * (part == "test")).save(place)
    return root


def audit(*words):
    return CliRunner().invoke(application, ["audit", *map(str, words)])


def test_a_clean_set_ends_with_0_and_a_page(tmp_path):
    done = audit(make_set(tmp_path / "set"), "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "40 images, 0 pairs of copies, 0 unreadable" in done.output
    assert " of 40" not in done.output  # progress is for terminals
    assert "no leak and no shortcut was found" in done.output
    facts = json.loads((tmp_path / "out/audit.json").read_text())
    assert facts["problems"] == []
    assert facts["classes"]["ill"]["all"] == 20
    assert sum(facts["classes"]["ill"][part] for part in ("train", "validation", "test")) == 20
    page = (tmp_path / "out/index.html").read_text()
    assert "No copy in two parts" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_leak_ends_with_1_and_the_pair_is_shown(tmp_path):
    root = make_set(make_set(tmp_path / "set", 12, "train"), 6, "test")
    mirrored = ImageOps.mirror(Image.open(root / "train/ill/person3_ill.png"))
    mirrored.save(root / "test/ill/new.png")
    shutil.copy(root / "train/well/person1_well.png", root / "train/ill/wrong.png")
    done = audit(root, "--out", tmp_path / "out")
    assert done.exit_code == 1, done.output
    flat = " ".join(done.output.split())
    assert "2 images with copies in another part of the split" in flat
    assert "2 images with copies under another class" in flat
    facts = json.loads((tmp_path / "out/audit.json").read_text())
    assert facts["copies_in_two_parts"] == [["test/ill/new.png", "train/ill/person3_ill.png"]]
    assert [pair["change"] for pair in facts["pairs"] if "new" in pair["images"][0]] == ["mirrored"]
    page = (tmp_path / "out/index.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == 4
    assert "mirrored; in two parts" in page


def test_a_class_that_its_files_give_away_is_a_shortcut(tmp_path):
    root = make_set(tmp_path / "set", 30)
    for file in sorted((root / "ill").glob("*.png"))[:24]:
        Image.open(file).convert("RGB").save(file)
    done = audit(root, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 1
    facts = json.loads(done.output)
    accused = {one["source"]: one["accused"] for one in facts["shortcuts"]}
    assert accused == {"file facts": True, "the picture's border": False}


def test_patients_on_two_sides_are_a_leak(tmp_path):
    root = make_set(make_set(tmp_path / "set", 12, "train"), 6, "test")
    done = audit(root, "--out", tmp_path / "out", "--patient-from", r"person(\d+)")
    assert done.exit_code == 1
    flat = " ".join(done.output.split())
    assert "6 patients in two parts of the split. A network is tested on patients that it was trained on" in flat
    assert "12 patients have images of more than one class" in flat


def test_mistakes_end_as_one_sentence(tmp_path):
    root = make_set(tmp_path / "set", 4)
    (tmp_path / "empty").mkdir()
    for words, why in (
        ((root, "--patient-from", "subject"), "is found in none of the 8 paths"),
        ((root, "--group", "patient"), "group patient is not known"),
        ((tmp_path / "empty",), "holds no images"),
        ((tmp_path / "nowhere.zip",), "no data at"),
        (("digits", "--group", "patient"), "digits has none"),
    ):
        done = audit(*words, "--out", tmp_path / "out")
        assert isinstance(done.exception, ValueError | FileNotFoundError)
        assert why in str(done.exception)
    one_each = tmp_path / "one_each"
    for name in ("ill", "well"):
        for number in range(6):
            place = one_each / name / f"person{name}_{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            picture(number).save(place)
    done = audit(one_each, "--out", tmp_path / "out", "--patient-from", r"person([a-z]+)")
    assert "all images of ill, well are of one patient" in " ".join(done.output.split())


def make_findings(root, columns="path,Finding Labels,Patient ID,View Position"):
    """Write two images of each of 30 patients; `Mass` goes with the view, and one has a copy with other findings."""
    rng = np.random.default_rng(0)
    root.mkdir()
    rows = [columns]
    for number in range(60):
        picture(number).save(root / f"{number}.png")
        findings = [name for name, share in (("Mass", 0.5), ("Effusion", 0.4)) if rng.random() < share]
        view = "AP" if "Mass" in findings or rng.random() < 0.1 else "PA"
        rows.append(f"{number}.png,{'|'.join(findings) or 'No Finding'},{number // 2},{view}")
    shutil.copy(root / "0.png", root / "again.png")
    rows.append(f"again.png,{'Effusion|Mass' if 'No Finding' in rows[1] else 'No Finding'},0,PA")
    (root / "table.csv").write_text("\n".join(rows))
    return root / "table.csv"


def test_findings_are_judged_each_by_itself(tmp_path):
    table = make_findings(tmp_path / "set")
    done = audit(table, "--findings", "Finding Labels", "--group", "patient", "--out", tmp_path / "out")
    assert done.exit_code == 1, done.output
    flat = " ".join(done.output.split())
    assert "2 images with copies that have other findings" in flat
    assert "to fix: Mass can be told from column View Position alone. AUROC 0." in flat
    facts = json.loads((tmp_path / "out/audit.json").read_text())
    mass = facts["findings"]["Mass"]
    assert mass["all, with"] + mass["all, without"] == 61
    labels = [line.split(",")[1] for line in table.read_text().splitlines()[1:]]
    assert mass["all, with"] == sum("Mass" in label for label in labels)
    assert sum(mass[f"{part}, with"] for part in ("train", "validation", "test")) == mass["all, with"]
    judged = {(one["source"], one["finding"]): one["accused"] for one in facts["shortcuts"]}
    assert judged == {
        (source, finding): (source, finding) == ("column View Position", "Mass")
        for source in ("column View Position", "the picture's border")
        for finding in ("Effusion", "Mass")
    }
    assert facts["copies_of_two_classes"] == [["0.png", "again.png"]]
    assert facts["patients"]["count"] == 30
    page = (tmp_path / "out/index.html").read_text()
    assert "61 images with 2 findings" in page
    assert "with different findings" in page


def test_findings_in_columns_of_their_own_are_not_told_by_these_columns(tmp_path):
    table = make_findings(tmp_path / "set")
    lines = [line.split(",") for line in table.read_text().splitlines()[1:]]
    rows = [f"{path},{int('Mass' in found)},{int('Effusion' in found)},{view}" for path, found, _, view in lines]
    table.write_text("\n".join(["path,Mass,Effusion,View Position", *rows]))
    done = audit(table, "--findings", "mass|Effusion", "--out", tmp_path / "out", "--json")
    sources = {one["source"] for one in json.loads(done.output)["shortcuts"]}
    assert sources == {"column View Position", "the picture's border"}
    mistaken = audit(table, "--findings", "Mess|Effusion", "--out", tmp_path / "out")
    assert "Did you mean 'Mass'?" in str(mistaken.exception)
    assert "is none: leave out findings" in str(audit("digits", "--findings", "Mass").exception)
