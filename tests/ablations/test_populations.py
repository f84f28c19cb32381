"""What is said of images nobody has seen: from predictions in run folders to sentences, tables and looks."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from alexnet_ablations.cli.application import application
from alexnet_ablations.conclude.conclusions import conclude_study, conclusions_of
from alexnet_ablations.conclude.false_claims import false_claim_probability
from alexnet_ablations.conclude.looks import level_of_look, spent
from alexnet_ablations.conclude.outcomes import read_results
from alexnet_ablations.conclude.paper_tables import effects_table, paper_tables
from alexnet_ablations.conclude.sentences import lacking_sentence, look_sentence, notes_of, reach_of, sentence_of
from alexnet_ablations.declare.study import declare_study, read_study
from alexnet_ablations.report import write_report
from alexnet_lab.predictions_file import PartPredictions, write_predictions

CLASSES = ("cat", "dog")
IMAGES = 80
LABELS = np.arange(IMAGES) % 2
# Of these images bn gets right what lrn gets wrong, under every seed.
GAINED = 6


def write_run(run, right, *, groups=None, ids=None, keeps=True):
    """Write the folder of a run that got these test images right."""
    predicted = np.where(right, LABELS, 1 - LABELS)
    probabilities = np.eye(2)[predicted] * 0.8 + 0.1
    run.folder.begin(run.recipe.to_json(), {"classes": list(CLASSES)}, json.dumps({}))
    if keeps:
        part = PartPredictions(np.arange(IMAGES) if ids is None else ids, LABELS, probabilities, groups)
        write_predictions(run.folder.path / "predictions.npz", {"validation": part, "test": part}, CLASSES)
    recalls = [float(right[k == LABELS].mean()) for k in (0, 1)]
    test = {"accuracy": float(right.mean()), "balanced_accuracy": float(np.mean(recalls)), "images": IMAGES}
    run.folder.end("ok", result={"test": {**test, "auroc": 0.9 + 0.01 * run.seed}})


@pytest.fixture
def make_study(tmp_path):
    """Make a study of lrn and bn whose runs err on a few images of their own, beside those that bn gains."""

    def make(seeds=4, gained=GAINED, wrong=0.05, **how):
        study = declare_study({"norm": "bn"}, {"norm": "lrn"}, tmp_path / "study", seeds=seeds).open_folder()
        for run in study.runs():
            if run.is_done:
                continue
            generator = np.random.default_rng([run.seed, len(run.cell.name)])
            right = generator.random(IMAGES) > wrong
            right[:gained] = dict(run.cell.settings)["norm"] == "bn"
            write_run(run, right, **{name: value(run) if callable(value) else value for name, value in how.items()})
        return study

    return make


def concluded(study, margin=None):
    return conclude_study(replace(study, margin=margin), read_results(study.runs()))


def test_the_headline_is_about_images_like_these_with_the_seeds_alone_beside_it(make_study):
    conclusions = concluded(make_study())
    found = conclusions.headline[0]
    assert found.inference.images.mean == pytest.approx(found.inference.mean)
    said = sentence_of(found)
    assert "for images like these ([" in said
    assert "on these 80 test images), n=4 pairs" in said
    alone = found.inference.seeds_alone
    assert found.low < alone.low < alone.high < found.high
    assert lacking_sentence(conclusions) == look_sentence(conclusions) == ""
    table = effects_table(conclusions)
    assert table.header[3] == "seeds alone"
    assert "over seeds and images, for images like these" in table.caption


def test_what_is_no_mean_over_images_is_about_these_images_and_says_so(make_study):
    conclusions = concluded(make_study())
    by_name = {name: conclusions.of(name)[0] for name in ("balanced_accuracy", "auroc")}
    assert by_name["balanced_accuracy"].population == "for images like these"
    assert by_name["balanced_accuracy"].inference.images.mean == pytest.approx(by_name["balanced_accuracy"].effect)
    assert by_name["auroc"].population == "on these 80 test images"
    captions = {table.name: table.caption for table in paper_tables(read_results(make_study().runs()), conclusions)}
    assert "The interval of balanced accuracy is for images like these; the others" in captions["other-effects"]


def test_patients_take_the_place_of_images_where_the_data_names_them(make_study):
    patients = np.array([f"p{at // 8}" for at in range(IMAGES)])
    found = concluded(make_study(groups=patients)).headline[0]
    assert found.population == "for patients like these"
    assert found.inference.images.groups == 10
    # The six images that bn gains are those of one patient, which is one observation and not six.
    assert found.verdict == "undecided"
    assert "test patients" in sentence_of(found)


def test_a_difference_on_a_few_test_images_is_found_there_and_not_for_others(make_study):
    study = make_study(seeds=6, gained=3, wrong=0.01)
    results = read_results(study.runs())
    here = conclusions_of(results, study.contrasts()).headline[0]
    elsewhere = concluded(study).headline[0]
    assert here.population == "on these 80 test images"
    assert here.verdict == "difference"
    assert elsewhere.verdict == "undecided"
    assert elsewhere.inference.t_p > here.inference.t_p


def test_runs_without_predictions_are_read_and_named(make_study):
    conclusions = concluded(make_study(keeps=lambda run: run.seed != 2))
    assert conclusions.headline[0].population == "on these 80 test images"
    said = lacking_sentence(conclusions)
    assert said.startswith("2 runs have no predictions: norm=lrn under seed 2, norm=bn under seed 2; ")
    assert said.endswith("are about these test images alone")


def test_a_study_of_an_earlier_version_says_what_its_intervals_are_about(make_study):
    conclusions = concluded(make_study(keeps=False))
    assert conclusions.answers is None
    assert conclusions.headline[0].population == "on these 80 test images"
    assert "no run has kept its predictions" in lacking_sentence(conclusions)
    assert "seeds alone" not in effects_table(conclusions).header


def test_runs_that_were_tested_on_other_images_are_named(make_study):
    other = np.arange(IMAGES) + 1
    conclusions = concluded(make_study(ids=lambda run: other if run.seed == 1 else None))
    assert conclusions.headline[0].population == "on these 80 test images"
    assert "2 runs have other test images than the rest: norm=lrn under seed 1" in lacking_sentence(conclusions)


def test_what_is_undecided_says_what_such_a_study_shows_and_what_the_margin_takes(make_study):
    study = make_study(seeds=6, gained=0)
    found = concluded(study, margin=0.5).headline[0]
    assert found.verdict == "undecided"
    known = found.sensitivity
    said = reach_of(found)
    assert said.startswith(f"6 seeds and 80 test images show {known.effect:.1f} points four times in five")
    if known.seeds_for_margin is None:
        assert f"four times in five (no number of seeds less than {known.least:.1f} points)" in said
    # It is about the margin that was asked for, and never about the effect that was seen.
    assert (
        reach_of(concluded(study, margin=50.0).headline[0])
        == said.partition(";")[0].partition(", and")[0].partition(" (")[0]
    )


def test_an_extended_study_remembers_its_looks_and_is_tested_at_what_is_left(make_study):
    first = make_study(seeds=3)
    assert concluded(first).headline[0].level == pytest.approx(0.05 * 2 / 3)
    assert make_study(seeds=4).looks == ()  # nobody has read a report
    (first.folder / "report").mkdir()
    (first.folder / "report" / "index.html").write_text("read")
    second = make_study(seeds=6)
    assert second.looks == (4,)
    assert make_study(seeds=6).looks == (4,)  # the same command again is no new look
    assert read_study(first.folder / "study.toml", first.folder).looks == (4,)
    conclusions = concluded(second)
    assert conclusions.headline[0].level == pytest.approx(0.05 * (1 / 4 - 1 / 6))
    assert look_sentence(conclusions).startswith("second look at this study, after one at 4 seeds: of 5%")
    assert make_study(seeds=9).looks == (4, 6)
    assert look_sentence(concluded(make_study(seeds=9))).startswith(
        "third look at this study, after one at 4 and 6 seeds"
    )


def test_all_looks_together_spend_no_more_than_there_is():
    ways = ([2, 3, 4, 5, 6], [3, 6, 9, 12, 100], [1, 50], [20])
    for looks in ways:
        levels = [level_of_look(seeds, looks[:at]) for at, seeds in enumerate(looks)]
        assert all(level >= 0 for level in levels)
        assert sum(levels) == pytest.approx(spent(looks[-1]))
        assert sum(levels) < 0.05
    assert level_of_look(20) > 0.047


@pytest.mark.parametrize("looks", ["[6, 3]", '["a"]', "[0]", "3"])
def test_looks_that_cannot_be_are_refused(make_study, looks):
    study = make_study(seeds=2)
    path = study.folder / "study.toml"
    path.write_text(path.read_text().replace("seeds = 2\n", f"seeds = 2\nlooks = {looks}\n"))
    with pytest.raises(ValueError, match="looks must be a list"):
        read_study(path, study.folder)


@pytest.mark.parametrize(("images", "better", "other", "both"), [(66, 0.9, 0.8, 0.75), (400, 0.81, 0.8, 0.7)])
def test_the_probability_of_a_false_claim_is_that_of_the_dirichlet_distribution(images, better, other, both):
    only_better, only_other = images * (better - both), images * (other - both)
    parameters = [only_better + 1, only_other + 1, images - only_better - only_other + 2]
    drawn = np.random.default_rng(0).dirichlet(parameters, 400_000)
    by_drawing = (drawn[:, 0] <= drawn[:, 1]).mean()
    assert false_claim_probability(images, better, other, both) == pytest.approx(by_drawing, abs=0.004)
    assert false_claim_probability(images, better, better, both) == pytest.approx(0.5)
    assert false_claim_probability(80, 1.0, 0.95, 0.95) == pytest.approx(0.5**5)  # four images to none


def test_what_was_found_has_the_probability_of_a_false_claim_beside_it(make_study):
    study = make_study(seeds=6, gained=20)
    found = concluded(study).headline[0]
    assert found.verdict == "difference"
    claim = found.false_claim
    right = {key: np.unpackbits(bits, count=IMAGES) for key, bits in concluded(study).answers.right.items()}
    by_seed = [
        (
            right["norm=bn", seed].mean(),
            right["norm=lrn", seed].mean(),
            (right["norm=bn", seed] & right["norm=lrn", seed]).mean(),
        )
        for seed in range(6)
    ]
    assert (claim.better, claim.other, claim.both) == pytest.approx(tuple(np.mean(by_seed, axis=0)))
    assert claim.probability == pytest.approx(false_claim_probability(IMAGES, *np.mean(by_seed, axis=0)))
    table = effects_table(concluded(study))
    assert table.header[-2] == "P(false claim)"
    assert "arXiv 2505.04720" in table.caption
    assert "probability of a false claim" in write_report(study).read_text()


def test_a_claim_in_the_other_direction_is_about_the_other_network(make_study):
    study = make_study(seeds=6, gained=20)
    turned = declare_study({"norm": "lrn"}, {"norm": "bn"}, study.folder, seeds=6)
    found = conclude_study(turned, read_results(turned.runs())).headline[0]
    assert found.effect < 0
    assert found.false_claim == concluded(study).headline[0].false_claim


def test_what_is_undecided_or_an_interaction_makes_no_claim(make_study):
    assert concluded(make_study(gained=0)).headline[0].false_claim is None
    assert "P(false claim)" not in effects_table(concluded(make_study(gained=0))).header


def test_a_difference_that_one_run_on_few_images_would_not_show_says_so(make_study):
    found = concluded(make_study(seeds=6, gained=20)).headline[0]
    few = replace(found, false_claim=replace(found.false_claim, probability=0.12))
    assert "a claim of the better one is false with a probability of 12%" in " ".join(notes_of(few))


def test_lines_of_json_end_with_what_was_concluded(make_study):
    study = make_study(seeds=6, gained=20)
    done = CliRunner().invoke(application, ["study", str(study.folder), "--json"])
    last = json.loads(done.output.splitlines()[-1])
    found = concluded(study).headline[0]
    assert (last["event"], last["contrast"], last["verdict"]) == ("conclusion", "norm: lrn → bn", "difference")
    assert last["interval"] == pytest.approx([found.shown.low, found.shown.high])
    assert last["false_claim_probability"] == pytest.approx(found.false_claim.probability)
