"""The pages of runs, from whole records to hardly any."""

import json
import re
import shutil

import numpy as np
import pytest

from alexnet_lab.diagnosis import Finding
from alexnet_lab.reports.comparison import compare_runs, distance_rows, names_of, open_runs, recipe_rows, unmatched
from alexnet_lab.reports.inspection import command_of, inspect_run, layer_rows, open_run
from alexnet_lab.reports.measured import Measured, short_names, spaced, strip_of
from alexnet_lab.reports.page import Beside, Callout, Paragraph, Remarks, Table
from alexnet_lab.reports.panels import share_interval
from alexnet_lab.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("undrawn")

FINDING = Finding(
    "x", "serious", "Dead", "They are silent.", "12 of 96", "0.25", "None", "leaky", ("conv1",), (1, 2, 3, 5)
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, write_run):
    return write_run(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def page(whole):
    return inspect_run(whole, [FINDING])


# A network of two layers has a quarter of the figures.
SMALL = {"layers": ["conv1", "fc2"], "shapes": [(8, 1, 3, 3), (4, 72)]}
BARE = {"flow": False}


def blocks(page, section):
    return next(each for each in page.sections if each.title == section).blocks


def words(page, section):
    return " ".join(block.text for block in blocks(page, section) if isinstance(block, Paragraph))


def figure(page, name):
    return next(each for each in page.figures() if each.name == name)


def test_a_whole_run_has_every_section_and_says_first_what_became_of_it(page):
    assert page.lead == (
        "alexnet with its published parts on digits: 87.4% of 95 test images right (95% interval 79.2 to 92.6%), by "
        "the weights of epoch 3 of 3. 1 finding."
    )
    assert [each.title for each in page.sections] == [
        "Result", "Findings", "Learning", "Predictions", "Gradient flow", "Norms and updates", "Signals",
        "Units while training", "Units on the probe set", "First-layer filters", "Cost of measuring",
        "Recipe and provenance", "Reproduce",
    ]  # fmt: skip
    names = [each.name for each in page.figures()]
    assert {"loss", "accuracy", "learning-rate", "confusion-test", "recall-test", "gradient-through-depth",
            "gradient-sizes", "activation-gradient-sizes", "weight-sizes", "activation-sizes", "gradient-norm",
            "weight-norm", "update-ratio", "signal-to-noise", "rate-training", "dead-training", "units-training-0",
            "rate-probe", "dead-probe", "units-probe-0", "filters-start", "filters-end"} <= set(names)  # fmt: skip
    assert all(each.reading and each.table.rows for each in page.figures())
    assert len(page.html()) < 3_000_000


def test_findings_are_told_with_all_that_stands_behind_them(page):
    found = blocks(page, "Findings")[0]
    assert (found.level, found.title) == ("serious", "Dead")
    assert ("Epochs", "1 to 3, 5") in found.details
    assert ("Try", "leaky") in found.details


def against(page):
    """What stands beside the result, as text by title."""
    beside = next(block for block in page.sections[0].blocks if isinstance(block, Beside | Remarks))
    points = (beside if isinstance(beside, Remarks) else beside.beside[0]).points
    return {title: " ".join(text for name, text in points if name == title) for title, _ in points}


def test_the_first_section_is_the_figure_of_the_result_with_what_speaks_against_it(page):
    first = page.sections[0].blocks[0]
    assert first.figure.name == "result"
    assert [row[0] for row in first.figure.table.rows] == ["test, 95 images", "validation, 95 images"]
    said = against(page)
    assert said["Serious finding"] == "Dead."
    assert said["Notes of the run"] == "Made to order."
    assert "95% interval of 79.2 to 92.6% (13 points wide)" in said["Test set"]


def test_a_run_without_findings_gets_no_praise(write_run, tmp_path):
    page = inspect_run(write_run(tmp_path / "run", **BARE), [])
    found = blocks(page, "Findings")[0]
    assert isinstance(found, Callout)
    assert (found.level, found.title) == ("note", "No finding")
    assert 'class="callout good"' not in page.html()


def test_a_run_without_a_result_begins_with_its_learning_curve(write_run, tmp_path):
    page = inspect_run(write_run(tmp_path / "run", state="diverged", **BARE), [])
    assert page.sections[0].blocks[0].figure.name == "loss"
    assert [each.name for each in page.figures()].count("loss") == 1


def test_the_cost_is_what_the_run_clocked(page):
    assert "took 0.75 of 30.0 seconds of training, 2.5%" in words(page, "Cost of measuring")


def test_planted_dead_units_are_marked_with_n_and_its_bound(page):
    for split, n, bound in (("training", 200, "1.5%"), ("probe", 64, "4.7%")):
        title = "Units while training" if split == "training" else "Units on the probe set"
        table = next(block for block in blocks(page, title) if isinstance(block, Table))
        row = dict(zip(table.columns, table.rows[0], strict=True))
        assert (row["layer"], row["units"], row["N"], row["dead"]) == ("conv1", 8, n, 2)
        assert row["fires on fewer than (95%)"] == bound
        assert (row["revived at some time"], row["dead in every epoch"]) == (0, 2)
        units = figure(page, f"units-{split}-0")
        assert units.table.rows[-1][-1] == "0, 1"
        assert [cells[0] for cells in units.hover[0].cells].count("dead") == 2
        other = figure(page, f"units-{split}-1")
        assert not any("dead" in cell for cells in other.hover[0].cells for cell in cells)


def test_what_hovers_over_a_histogram_is_the_share_that_was_counted(whole, page):
    run = Measured(whole)
    found = figure(page, "gradient-sizes").hover[0]
    windows = (run.windows["kind"] == 1) & (run.windows["subject"] == 0)
    counts = run.windows["counts"][windows & (run.windows["last_step"] == 5)].sum((0, 1))
    power = int(np.argmax(counts[2:-2])) - 126
    row = next(at for at, name in enumerate(found.rows) if name.startswith(f"size 2{raised(power)} "))
    assert float(found.cells[row][0].rstrip("%")) == pytest.approx(100 * counts.max() / counts.sum(), rel=1e-2)
    assert found.columns[0] == "epoch 0.5, to step 5"


def test_a_histogram_is_that_of_the_epoch_that_was_asked_for(whole):
    columns = np.load(whole / "flow" / "epoch-0002.npz")
    mine = (columns["windows.kind"] == 1) & (columns["windows.subject"] == 4)
    expected = columns["histograms.counts"][mine].sum(0)
    np.testing.assert_array_equal(Measured(whole).histogram("gradient", 4, 2), expected)


def raised(power):
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def test_the_short_table_has_the_medians_of_the_last_epoch(whole):
    run = open_run(whole)
    rows = layer_rows(run)
    steps = run.flow.table("steps")
    mine = (steps["epoch"] == 3) & (steps["parameter"] == 0)
    assert rows[0]["gradient norm"] == pytest.approx(np.median(steps["gradient_norm"][mine]))
    ratio = np.median(steps["update_norm"][mine].astype(float) / steps["weight_norm"][mine])
    assert rows[0]["update ratio"] == pytest.approx(ratio)
    assert (rows[0]["dead"], rows[0]["units"], rows[0]["N"], rows[0]["split"]) == (2, 8, 64, "probe")
    assert rows[-1]["off-rate"] is None  # no activation follows the last layer


@pytest.mark.parametrize(
    ("options", "section", "said"),
    [
        ({"flow": False}, "Inside the network", "carried no instruments"),
        ({"validation": False, **BARE}, "Learning", "no validation metrics"),
        ({"probe": False, **SMALL}, "Units on the probe set", "No unit was counted on a fixed probe set"),
        ({"filters": False, **SMALL}, "First-layer filters", "were not kept"),
        ({"state": "diverged", **BARE}, "Predictions", "only a run that ended well"),
        ({"state": None, **BARE}, "Predictions", "only a run that ended well"),
        ({"epochs": 0, "state": None, **SMALL}, "Learning", "No epoch has ended"),
        ({"epochs": 0, "state": "oom", "flow": False}, "Learning", "No epoch has ended"),
        ({"epochs": 1, **SMALL}, "Cost of measuring", "took 0.25"),
    ],
)
def test_what_was_not_recorded_is_said_to_be_missing(options, section, said, write_run, tmp_path):
    page = inspect_run(write_run(tmp_path / "run", **options), [])
    assert said in words(page, section)
    assert page.html()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("diverged", "diverged: the loss was nan at step 7"),
        ("error", "ended without a result (error): the loss was nan at step 7"),
        (None, "no verdict yet, 2 of 2 epochs recorded"),
    ],
)
def test_the_first_sentence_says_how_a_run_ended(state, said, write_run, tmp_path):
    assert said in inspect_run(write_run(tmp_path / "run", epochs=2, state=state, flow=False), []).lead


def test_numbers_that_overflowed_do_not_end_the_report(write_run, tmp_path, drawn):
    run = write_run(tmp_path / "run", epochs=2, state="diverged", **SMALL)
    path = run / "flow" / "epoch-0002.npz"
    columns = dict(np.load(path))
    columns["steps.gradient_norm"][:] = np.inf
    columns["steps.update_norm"][:] = np.nan
    columns["histograms.counts"][:] = 0
    columns["histograms.counts"][:, 0, -1] = 5
    np.savez(path, **columns)
    page = inspect_run(run, [])
    assert "infinite or NaN" in figure(page, "gradient-sizes").hover[0].rows
    assert page.html()


def test_leaky_units_are_never_called_dead(write_run, tmp_path):
    page = inspect_run(write_run(tmp_path / "run", activation="LeakyReLU", **SMALL), [])
    assert figure(page, "dead-training").title == "Units always negative, while training"
    assert "never dead" in words(page, "Units while training")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no run folder"):
        open_run(tmp_path)


def flipped(content):
    """One bit in the middle of the file, which is compressed data of some array."""
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 4]) + content[len(content) // 2 + 1 :]


DEEP = b"[" * 100_000 + b"]" * 100_000
DAMAGES = {
    "one bit of an epoch": ("flow/epoch-0002.npz", flipped),
    "an epoch cut short": ("flow/epoch-0002.npz", lambda content: content[:-100]),
    "an empty epoch": ("flow/epoch-0002.npz", lambda _: b""),
    "an epoch of zeros": ("flow/epoch-0002.npz", lambda content: bytes(len(content))),
    "the last epoch": ("flow/epoch-0003.npz", flipped),
    "filters": ("flow/filters.npz", flipped),
    "empty filters": ("flow/filters.npz", lambda _: b""),
    "a renamed key of the layout": ("flow/layout.json", lambda content: content.replace(b'"units"', b'"unitz"')),
    "a count of the layout": ("flow/layout.json", lambda content: content.replace(b'"units": 8', b'"units": "8"')),
    "a deep layout": ("flow/layout.json", lambda _: DEEP),
    "a deep split": ("split.json", lambda _: DEEP),
    "a split of numbers": ("split.json", lambda _: b'{"train": 5, "validation": [1], "test": [2]}'),
    "a deep recipe": ("recipe.json", lambda _: DEEP),
    "a deep provenance": ("provenance.json", lambda _: DEEP),
    "a deep verdict": ("state.json", lambda _: DEEP),
    "a letter of the verdict": ("state.json", lambda content: content.replace(b'"accuracy"', b'"accuracz"', 1)),
    "no split": ("split.json", None),
    "metrics cut short": ("metrics.jsonl", lambda content: content[: len(content) // 2]),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory, write_run):
    return write_run(tmp_path_factory.mktemp("small") / "run", **SMALL)


# One of each kind of file and of damage; the others are tried in the long tests.
QUICK = ("one bit of an epoch", "an epoch of zeros", "filters", "a deep layout", "a deep split", "no split")
QUICK += ("a letter of the verdict", "metrics cut short")
BY_DAMAGE = [damage if damage in QUICK else pytest.param(damage, marks=pytest.mark.long) for damage in DAMAGES]


@pytest.mark.parametrize("damage", BY_DAMAGE)
def test_a_damaged_record_costs_its_run_that_record_and_is_named(damage, small, tmp_path):
    run = shutil.copytree(small, tmp_path / "run")
    name, change = DAMAGES[damage]
    if change is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(change((run / name).read_bytes()))
    page = inspect_run(run)
    assert str(run / name) in against(page)["Damaged record"]
    lost = {"flow/layout.json"} if name == "flow/layout.json" else {name}
    measured = open_run(run)
    assert set(measured.damages) == lost
    if name == "flow/epoch-0002.npz":
        assert sorted(measured.flow.epochs) == [1, 3]
    figures = {figure.name for figure in page.figures()}
    assert ("loss" in figures) == (name != "metrics.jsonl")
    assert ("gradient-norm" in figures) == (name != "flow/layout.json")
    assert ("filters-start" in figures) == (name not in ("flow/layout.json", "flow/filters.npz"))
    assert ("confusion-test" in figures) == (name != "state.json")


def test_a_damaged_run_is_compared_by_what_is_left_of_it(small, tmp_path, drawn):
    assert "Damaged record" not in against(inspect_run(small))
    run = shutil.copytree(small, tmp_path / "damaged")
    for name in ("flow/epoch-0003.npz", "flow/filters.npz", "split.json", "state.json"):
        (run / name).write_bytes(DEEP)
    page = compare_runs([small, run])
    assert against(page)["Damaged record"].count("damaged: ") >= 4
    assert "damaged: its verdict cannot be read" in words(page, "Results")
    assert "All at epoch 2" in words(page, "Distances")


def test_a_whole_file_that_is_not_what_the_run_wrote_is_left_out(small, write_run, tmp_path):
    run = shutil.copytree(small, tmp_path / "run")
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"train_loss": 2.0', '"train_loss": 1.0'))
    assert open_run(run).rows == []
    assert "not what the run wrote" in open_run(run).damages["metrics.jsonl"]


def test_a_table_that_does_not_fit_the_layout_is_damage(small, tmp_path):
    run = shutil.copytree(small, tmp_path / "run")
    path = run / "flow" / "epoch-0002.npz"
    whole = dict(np.load(path))
    for column, values in (
        ("steps.parameter", whole["steps.parameter"] + 90),
        ("steps.step", whole["steps.step"][:-1]),
        ("units.unit", whole["units.unit"] + 90),
        ("windows.kind", whole["windows.kind"].astype(float)),
        ("histograms.counts", whole["histograms.counts"][:-1]),
        ("units.off", np.array(3)),
        ("units.split", None),
    ):
        changed = {**whole, column: values}
        np.savez(path, **{name: array for name, array in changed.items() if array is not None})
        assert list(open_run(run).damages) == ["flow/epoch-0002.npz"], column
        assert layer_rows(open_run(run))
    assert inspect_run(run).html()


def test_of_a_study_the_runs_are_named(tmp_path, write_run):
    (tmp_path / "study.toml").touch()
    write_run(tmp_path / "runs" / "norm=bn" / "seed-0", flow=False)
    with pytest.raises(ValueError, match="it holds runs: name one of them, such as .*norm=bn/seed-0$"):
        open_run(tmp_path / "runs" / "norm=bn")
    with pytest.raises(ValueError, match="is a study; name one of its runs: .*norm=bn/seed-0"):
        open_run(tmp_path)


def test_the_command_that_reproduces_a_run_is_its_recipe(tmp_path):
    recipe = json.loads(
        Recipe(norm="bn", data="my x rays.zip", learning_rate=0.0123456789, channels_last=True).to_json()
    )
    command = command_of(recipe)
    assert command == (
        "alexnet-lab train --norm bn --data 'my x rays.zip' --learning-rate 0.0123456789 --channels-last "
        "--device cpu --threads 1"
    )


def test_a_recall_has_wilsons_interval():
    # Newcombe 1998, table I, method 3: 81 of 263, Wilson's 95% interval is 0.2553 to 0.3662.
    found = share_interval("x", 263, 81)
    assert (round(found.low, 2), round(found.high, 2)) == (25.53, 36.62)


def test_shares_of_a_histogram_add_up_to_one():
    counts = np.random.default_rng(0).integers(0, 9, (258, 4)).astype(float)
    strip = strip_of("x", counts, -126)
    np.testing.assert_allclose(strip.shares.sum(0) + strip.zero + strip.broken, 1)
    assert (strip.exponents[0], strip.exponents[-1]) == (-126, 127)


def test_layers_go_by_their_last_name_where_that_is_enough():
    assert short_names(["features.conv1", "classifier.fc6"]) == ["conv1", "fc6"]
    assert short_names(["a.0.conv", "a.1.conv"]) == ["a.0", "a.1"]
    resnet = ["stem.conv", "stage1.first.conv", "stage1.second.conv", "stage2.first.conv", "classifier"]
    assert short_names(resnet) == ["stem", "stage1.first", "stage1.second", "stage2.first", "classifier"]
    assert short_names(["features.0.0", "features.0.1", "features.1.0"]) == [
        "features.0.0",
        "features.0.1",
        "features.1.0",
    ]
    assert short_names(["x", "x"]) == ["x", "x"]
    assert spaced(53, 5) == [0, 13, 26, 39, 52]
    assert spaced(3, 5) == [0, 1, 2]


def test_a_comparison_begins_with_results_then_what_the_recipes_differ_in(write_run, tmp_path):
    one = write_run(tmp_path / "one", **SMALL)
    other = write_run(tmp_path / "other", norm="bn", learning_rate=0.02, **SMALL)
    page = compare_runs([one, other])
    assert {"depth-gradient", "depth-rate", "distance-1", "gradient-0", "gradient-1"} <= {
        f.name for f in page.figures()
    }
    table = blocks(page, "What differs")[0]
    assert [each.title for each in page.sections[:2]] == ["Results", "What differs"]
    assert table.rows == [["norm", "as published", "bn"], ["learning_rate", "0.01", "0.02"]]
    assert page.lead.endswith("They differ in norm, learning_rate.")


def test_a_comparison_says_one_seed_each_and_what_speaks_against_each_run(write_run, tmp_path):
    one = write_run(tmp_path / "one", **SMALL)
    (one / "flow" / "epoch-0001.npz").write_bytes(b"")
    other = write_run(tmp_path / "other", seed=3, **BARE)
    page = compare_runs([one, other])
    said = against(page)
    assert "one seed each: one 87.4%, other 87.4%" in page.lead
    assert said["One seed each"].startswith("The seeds are 0, 3. Another seed may")
    assert said["Notes of the run"] == "Made to order."  # of both, and said once
    assert said["Damaged record"].startswith("one: ")
    assert said["Test set"].startswith("95 images: 87.4% right")
    table = page.sections[0].blocks[0].under[0]
    assert table.rows[0] == ["test accuracy", "0.8737", "0.8737", "0.0000"]


def test_the_planted_fall_of_the_gradient_is_the_distance_that_is_found(whole, write_run, tmp_path):
    compared = open_runs([whole, write_run(tmp_path / "other", fall=4)])
    found = {layer: each for kind, layer, each in distance_rows(compared, 1) if kind == "gradient"}
    # Gradients fall by 1.5 powers of two a layer in one run and by 4 in the other, counted from the last.
    for depth, layer in enumerate(["fc5", "fc4", "conv3", "conv2", "conv1"]):
        assert found[layer].shift == pytest.approx(-2.5 * depth, abs=0.5)
    assert found["fc5"].total_variation < 0.2
    assert found["conv1"].total_variation > 0.8


def test_layers_without_a_partner_are_listed(write_run, tmp_path):
    one = write_run(tmp_path / "one", **SMALL)
    other = write_run(tmp_path / "other", **{**SMALL, "layers": ["conv1", "extra"]})
    assert unmatched(open_runs([one, other])) == ["one: fc2", "other: extra"]
    assert "without a partner: one: fc2; other: extra" in words(compare_runs([one, other]), "Through depth")


def test_networks_that_share_no_layer_are_compared_by_what_they_have(write_run, tmp_path):
    one = write_run(tmp_path / "one", **SMALL)
    page = compare_runs([one, write_run(tmp_path / "other", **{**SMALL, "layers": ["stem", "head"]})])
    assert "no layer that was measured has a partner" in words(page, "Distances")
    assert "No layer has a histogram in every one" in words(page, "Histograms")


def test_runs_without_instruments_are_compared_by_what_they_have(whole, write_run, tmp_path, drawn):
    other = write_run(tmp_path / "other", flow=False, state="diverged")
    page = compare_runs([whole, other])
    assert "Without instruments, and so without these numbers: other" in words(page, "Through depth")
    assert "other: diverged. the loss was nan at step 7" in words(page, "Results")
    assert page.html()


def test_a_comparison_needs_two_runs(whole):
    with pytest.raises(ValueError, match="needs two different runs"):
        compare_runs([whole, whole])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/norm=bn/seed-0", "a/norm=lrn/seed-0"], ["norm=bn", "norm=lrn"]),
        (["a/norm=bn,act=relu/seed-0", "a/norm=lrn,act=relu/seed-0"], ["norm=bn", "norm=lrn"]),
        (["a/norm=bn/seed-0", "a/norm=bn/seed-1"], ["seed-0", "seed-1"]),
        (
            ["a/norm=bn/seed-0", "a/norm=lrn/seed-0", "a/norm=bn/seed-1"],
            ["norm=bn/seed-0", "norm=lrn/seed-0", "norm=bn/seed-1"],
        ),
        (["a/norm=bn/seed-0", "b/norm=bn/seed-0"], ["a", "b"]),
        (["a/b=1", "a/b=1,c=2"], ["b=1", "c=2"]),
    ],
)
def test_runs_are_named_by_what_tells_them_apart(tmp_path, paths, names):
    assert names_of([tmp_path / path for path in paths]) == names


def test_equal_recipes_are_said_to_be_equal(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    compared = open_runs([whole, tmp_path / "copy"])
    assert recipe_rows(compared) == []
    assert all(each.total_variation == 0 for _, _, each in distance_rows(compared, 1))


@pytest.mark.long
def test_the_page_of_a_long_run_of_wide_layers_stays_light(write_run, tmp_path, drawn):
    shapes = [(96, 3, 11, 11), (256, 96, 5, 5), (384, 256, 3, 3), (4096, 9216), (1000, 4096)]
    classes = [f"class {at}" for at in range(1000)]
    run = write_run(tmp_path / "run", epochs=90, shapes=shapes, classes=classes, dead=9)
    text = inspect_run(run, []).html()
    assert len(text.encode()) < 10_000_000
    assert re.search(r"4096 neurons of ReLU; a row is up to 43 of them", text)
