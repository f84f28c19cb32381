"""Mistakes on the command line: each ends as one line that names what was typed, exit 2, and nothing is left behind."""

import json
import sys

import pytest
import torch

from alexnet_ablations.cli import main
from alexnet_ablations.cli.errors import sentence_of
from alexnet_ablations.declare.study import declare


@pytest.fixture
def told(monkeypatch, capsys, tmp_path):
    """Return a function that runs the command line in an empty folder and returns the one line it ends with."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["alexnet-lab", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        assert ended.value.code == 2, shown.out + shown.err
        line = shown.err.removesuffix("\n")
        assert line.startswith("error: "), line
        assert "\n" not in line
        return line.removeprefix("error: ")

    return run


def made_run(folder):
    """Write a run of two classes that ended well, without training it."""
    recipe = declare({"norm": ["bn"]}, {"epochs": 1}, folder.path, seeds=1).runs()[0].recipe
    folder.begin(recipe.to_json(), {"classes": ["a", "b"], "alexnet_lab": "0"}, json.dumps({"train": [0]}))
    folder.log({"epoch": 1, "step": 5, "train_loss": 0.7, "validation_loss": 0.7, "validation_accuracy": 0.5})
    part = {"accuracy": 0.5, "images": 4, "confusion": [[1, 1], [1, 1]], "recall": [0.5, 0.5]}
    folder.end("ok", result={"tested_epoch": 1, "epochs": 1, "steps": 5, "test": part, "validation": part})
    return folder


@pytest.fixture
def study(tmp_path):
    planned = declare({"norm": ["bn"]}, {"epochs": 1, "device": "cpu"}, tmp_path / "study", seeds=1).open_folder()
    made_run(planned.runs()[0].folder)
    return planned


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train --width 0", "--width: must be greater than 0 (got 0.0)"),
        ("train --width=nan", "--width: must be a finite number (got nan)"),
        ("train --learning-rate inf", "--learning-rate: must be a finite number (got inf)"),
        ("train --epochs x", "invalid value for '--epochs': it must be a whole number, got 'x'; "),
        ("train --dropout=x", "invalid value for '--dropout': it must be a number, got 'x'; alexnet-lab train --help"),
        ("train positional", "got unexpected extra argument"),
        ("train --recipe absent.toml", "there is no recipe file absent.toml; name a TOML file, or one of laptop"),
        ("train --data=", "data names no images; it must be a folder, a .zip, a .csv or a .parquet"),
        ("train --data nowhere", "No folder or file has that name either."),
        ("ablate --norm bn --norm none", "--norm is given twice, and only one of them could count; say all of it in"),
        ("ablate --norm bn --baseline width=0", "width: must be greater than 0 (got '0')"),
        ("ablate --norm bn --seeds 0", "invalid value for '--seeds': it must be greater than or equal to 1, got '0'; "),
        ("ablate --norm bn --device cuda,cpu", "--device: takes one value for all cells (it is where and how"),
        ("ablate --norm bn --timeout 0", "--timeout takes minutes above 0, got 0; leave it out for no limit"),
        ("ablate --norm bn --margin 0", "--margin takes points above 0, got 0; name the smallest effect that matters"),
        ("ablate --norm bn --margin nan", "--margin takes points above 0, got nan"),
        ("ablate --norm bn --level 90", "--level takes a share above 0 and up to 1, got 90; for example 0.9 for 90%"),
        ("ablate --norm bn --track tb", "unknown tracker 'tb'. Choices: tensorboard, mlflow."),
        ("study .", ". is a folder without a study.toml; name a study's folder, a study file, or one of activation"),
        ("study lrn-or-bn --margin -1", "--margin takes points above 0, got -1"),
        ("report", "missing argument 'folder'; alexnet-lab report --help says what it takes"),
        ("report absent --level 2", "--level takes a share above 0 and up to 1, got 2"),
        ("report absent", "absent holds no study.toml; name the folder of a study"),
        ("retry absent --timeout -1", "--timeout takes minutes above 0, got -1"),
        ("retry absent --track tb", "unknown tracker 'tb'"),
        ("status absent", "absent is neither a study (study.toml, runs/) nor a run (recipe.json); name one of them"),
        ("inspect absent", "absent is no run folder: a run has a recipe.json, as alexnet-lab train leaves it"),
        ("compare one", "a comparison needs two different runs, got one"),
        ("export absent", "absent is no run folder: it has no recipe.json"),
        ("export absent --out /proc/version/x", "/proc/version/x must be a folder that can be written"),
        ("cache --prune 30", "an age is a whole number of hours, days or weeks"),
        ("networks --norm bn", "an option changes one network, and none is named"),
        ("networks alexnet --image-size 0", "invalid value for '--image-size': it must be greater than or equal to 1"),
        ("networks alexnet --width 1e9", "alexnet, 1000 classes, 3x227x227 at width 1e+09 is too large to be counted"),
        ("bench lnr", "no such command 'lnr'"),
    ],
)
def test_a_mistake_is_one_line_in_the_words_that_were_typed(told, tmp_path, words, sentence):
    assert sentence in (line := told(*words.split()))
    assert line.startswith(sentence) or sentence.startswith("No folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        "train --out file/run",
        "ablate --norm bn --out file",
        "ablate --norm bn --out file/study --plan",
        "study lrn-or-bn --out file --plan",
        "inspect run --out file",
        "compare run run --out file/page",
        "export run --to csv --out file",
    ],
)
def test_a_file_where_a_folder_is_to_be_written_is_seen_before_any_work(told, tmp_path, words):
    (tmp_path / "file").write_text("kept")
    assert "must be a folder that can be written, and " in (line := told(*words.split()))
    assert line.endswith("file is a file; choose another with --out")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_run_is_not_trained_in_a_studys_folder_nor_a_study_made_in_a_runs(told, study):
    assert told("train", "--out", "study") == (
        "study holds a study, and a run needs a folder of its own; choose another with --out"
    )
    run = str(study.runs()[0].folder.path)
    assert told("ablate", "--norm", "bn", "--out", run).startswith(f"{run} holds a run, and a study needs a folder")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"\xff\xfe\x00", "mine.toml is not text in UTF-8, as TOML must be; save it as UTF-8, or name another"),
        (b"x = [", "mine.toml is not TOML"),
        (b"epochs = 'x'", "in mine.toml, epochs: must be a whole number (got 'x')"),
        (b"epoch = 3", "in mine.toml, unknown recipe field 'epoch'. Did you mean 'epochs'"),
        (b"recipe = 'papper'", "in mine.toml, unknown recipe 'papper'. Did you mean 'paper'"),
    ],
)
@pytest.mark.parametrize("command", ["train", "ablate --norm bn"])
def test_a_mistake_in_a_recipe_file_is_told_with_its_name(told, tmp_path, command, text, sentence):
    (tmp_path / "mine.toml").write_bytes(text)
    assert told(*command.split(), "--recipe", "mine.toml").startswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[factors]\nnorm = ['bm']", "in mine.toml, norm: unknown norm level 'bm'. Did you mean 'bn'"),
        ("[factors]\nnorm = []", "in mine.toml, norm: names no level; name one or several, for example bn,none"),
        ("seeds = 0\n[factors]\nnorm = ['bn']", "in mine.toml, seeds must be at least 1, got 0"),
        ("margin = 0\n[factors]\nnorm = ['bn']", "in mine.toml, margin must be above 0, got 0"),
        ("level = 90\n[factors]\nnorm = ['bn']", "in mine.toml, level must be above 0 and up to 1, got 90"),
        ("level = 'high'\n[factors]\nnorm = ['bn']", "in mine.toml, level must be a number, got 'high'"),
        ("[factors]\nnorm = ['bn']\n[recipe]\nnope = 3", "in mine.toml, unknown recipe field 'nope'"),
    ],
)
def test_a_mistake_in_a_study_file_is_told_with_its_name(told, tmp_path, text, sentence):
    (tmp_path / "mine.toml").write_text(text)
    assert told("study", "mine.toml").startswith(sentence)


@pytest.mark.parametrize("text", ["{", "[1]", "null", "{}", "\x00"])
@pytest.mark.parametrize("words", ["inspect {run}", "export {run} --to csv", "compare {run} other"])
def test_a_damaged_verdict_is_named_and_how_to_go_on(told, study, tmp_path, words, text):
    run = study.runs()[0].folder
    made_run(type(run)(tmp_path / "other"))
    (run.path / "state.json").write_text(text)
    line = told(*words.format(run=run.path).split())
    assert line.startswith(f"{run.path / 'state.json'} is damaged (")
    assert line.endswith("); delete it, and its run is made again")


def test_metrics_that_are_none_end_the_reading(study):
    folder = study.runs()[0].folder
    for torn in ("3\n", "\x00\xff", '{"epoch": 2'):
        path = folder.path / "metrics.jsonl"
        path.write_bytes(path.read_bytes() + torn.encode("latin-1"))
        assert [row["epoch"] for row in folder.metrics()] == [1]


def test_a_run_without_provenance_is_exported_with_numbers_for_the_names_of_classes(study, tmp_path):
    from alexnet_lab.reports.run_tables import run_tables

    (study.runs()[0].folder.path / "provenance.json").unlink()
    confusion = run_tables(study.runs()[0].folder.path)["confusion"]
    assert sorted(set(confusion["true"])) == ["0", "1"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "--weights: mine.pth does not exist; give a .pth or .safetensors file, or imagenet"),
        (b"no weights", "--weights: mine.pth is no torch file, or an incomplete one; fetch or save it again"),
        ({"a": torch.zeros(2)}, "--weights: mine.pth: these tensors do not fit this AlexNet; "),
    ],
)
def test_weights_that_cannot_be_taken_are_told_by_the_option(told, tmp_path, content, sentence):
    if isinstance(content, bytes):
        (tmp_path / "mine.pth").write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / "mine.pth")
    before = sorted(tmp_path.iterdir())
    line = told("train", "--weights", "mine.pth", "--width", "0.0625", "--threads", "1", "--quiet", "--out", "run")
    assert line.startswith(sentence)
    assert "load_pretrained" not in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.long
def test_a_network_that_no_memory_holds_is_one_sentence(told, tmp_path):
    line = told("train", "--image-size", "100000000", "--quiet", "--threads", "1", "--out", "run")
    assert line == "a network for 100000000 pixels, width 0.25, does not fit in memory; take less"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_stays_when_its_run_never_began(told, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    line = told("train", "--weights", "absent.pth", "--quiet", "--threads", "1", "--out", "mine")
    assert "absent.pth does not exist" in line
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_what_the_system_says_of_a_path_is_a_sentence_about_it():
    assert sentence_of(FileNotFoundError(2, "No such file or directory", "gone/x"), []) == (
        "gone/x cannot be read or written (no such file or directory); name another place, or repair this one"
    )


def test_a_field_that_was_not_typed_keeps_its_own_name():
    assert sentence_of(ValueError("width: must be greater than 0"), ["train", "--recipe", "x"]).startswith("width: ")
