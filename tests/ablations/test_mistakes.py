"""Mistakes on the command line: each ends as one line that names what was typed, exit 2, and nothing is left behind."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from alexnet_ablations.cli import main
from alexnet_ablations.cli.errors import sentence_of
from alexnet_ablations.declare.study import declare_study


@pytest.fixture
def told(monkeypatch, capsys, tmp_path, tmp_path_factory):
    """Return a function that runs the command line in an empty folder and returns the one line it ends with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))

    def run(*words, program="alexnet-lab"):
        monkeypatch.setattr(sys, "argv", [program, *words])
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
    recipe = declare_study({"norm": ["bn"]}, {"epochs": 1}, folder.path, seeds=1).runs()[0].recipe
    folder.begin(recipe.to_json(), {"classes": ["a", "b"], "alexnet_lab": "0"}, json.dumps({"train": [0]}))
    folder.log({"epoch": 1, "step": 5, "train_loss": 0.7, "validation_loss": 0.7, "validation_accuracy": 0.5})
    part = {"accuracy": 0.5, "images": 4, "confusion": [[1, 1], [1, 1]], "recall": [0.5, 0.5]}
    folder.end("ok", result={"tested_epoch": 1, "epochs": 1, "steps": 5, "test": part, "validation": part})
    return folder


@pytest.fixture
def study(tmp_path):
    planned = declare_study({"norm": ["bn"]}, {"epochs": 1, "device": "cpu"}, tmp_path / "study", seeds=1).open_folder()
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
        ("train --weights nowhere", "--weights: nowhere does not exist; give a run's folder, a folder of runs, a .pth"),
        ("ablate --norm bn --freeze until", "--freeze: until takes the number of the last frozen layer, as in until:5"),
        ("ablate --norm bn --norm none", "--norm is given twice, and only one of them could count; say all of it in"),
        ("ablate --norm bn --baseline width=0", "width: must be greater than 0 (got '0')"),
        ("ablate --norm bn --seeds 0", "invalid value for '--seeds': it must be greater than or equal to 1, got '0'; "),
        ("ablate --norm bn --device cuda,cpu", "--device: takes one value for all cells (it is where and how"),
        ("ablate --norm bn --timeout 0", "--timeout takes minutes above 0, got 0; leave it out for no limit"),
        ("ablate --norm bn --margin 0", "--margin takes points above 0, got 0; name the smallest effect that matters"),
        ("ablate --norm bn --margin nan", "--margin takes points above 0, got nan"),
        ("ablate --norm bn --level 90", "--level takes a share above 0 and up to 1, got 90; for example 0.9 for 90%"),
        ("ablate --norm bn --track tb", "unknown tracker 'tb'. Choices: tensorboard, mlflow."),
        (
            "ablate --preset torchvision",
            "nothing to ablate: a single --preset is set for all cells; name a part to vary",
        ),
        ("ablate --epochs 5", "nothing to ablate: a single --epochs is set for all cells; name a part to vary"),
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
        ("networks --norm bn", "an option needs the name of a network"),
        ("networks alexnet --image-size 0", "invalid value for '--image-size': it must be greater than or equal to 1"),
        ("networks alexnet --width 1e9", "alexnet, 1000 classes, 3x227x227 at width 1e+09 is too large"),
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
        (b"epochs = true", "in mine.toml, epochs: must not be true or false (got true)"),
        (
            b"x = " + b"[" * 5000 + b"]" * 5000,
            "mine.toml is nested too deeply to be read as TOML; correct it, or name an",
        ),
        ("epochs = 3".encode("utf-16"), "mine.toml is not text in UTF-8, as TOML must be; save it as UTF-8, or name"),
        (b"x = '" + b"y" * 2**20 + b"'", "mine.toml is larger than 1 MiB, and must be a TOML file; name another"),
        (b"seed = " + b"9" * 5000, "mine.toml is not TOML (Exceeds the limit"),
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
        (
            "[factors]\nnorm = ['bn']\n[recipe]\nrecipe = 'papper'",
            "in mine.toml, unknown recipe 'papper'. Did you mean",
        ),
        ("[factors]\nnorm = ['bn']\n[recipe]\nepochs = true", "in mine.toml, epochs: must not be true or false"),
        ("[factors]\nbatch_size = [true]", "in mine.toml, batch_size: must not be true or false (got true)"),
        ("margin = inf\n[factors]\nnorm = ['bn']", "in mine.toml, margin must be above 0, got inf"),
        (
            "seeds = 1" + "0" * 30 + "\n[factors]\nnorm = ['bn']",
            "in mine.toml, a study has at most 10,000 runs, and 2 ",
        ),
        ("", "in mine.toml, it has no factor; add a table [factors]"),
        ("x = " + "[" * 5000 + "]" * 5000, "mine.toml is nested too deeply to be read as TOML"),
    ],
)
def test_a_mistake_in_a_study_file_is_told_with_its_name(told, tmp_path, text, sentence):
    (tmp_path / "mine.toml").write_text(text)
    assert told("study", "mine.toml").startswith(sentence)


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b"\n"])
@pytest.mark.parametrize(
    "words", ["study study", "ablate --norm bn --epochs 1 --out study", "report study", "retry study"]
)
def test_an_empty_study_file_in_a_studys_folder_says_that_it_may_be_deleted(told, study, words, content):
    (study.folder / "study.toml").write_bytes(content)
    line = told(*words.split())
    assert line == "study/study.toml is empty; delete it, and the command that began this study writes it again"


def test_a_study_whose_file_was_deleted_is_recognised_by_the_command_that_began_it(study):
    text = (study.folder / "study.toml").read_text()
    (study.folder / "study.toml").unlink()
    again = declare_study({"norm": ["bn"]}, {"epochs": 1, "device": "cpu"}, study.folder, seeds=1).open_folder()
    assert (study.folder / "study.toml").read_text() == text
    assert again.runs()[0].is_done


@pytest.mark.parametrize("command", ["study", "train --recipe", "ablate --norm bn --recipe"])
def test_links_that_lead_nowhere_pipes_and_folders_are_no_toml_files(told, tmp_path, command):
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    for name in ("loop.toml", "pipe.toml", "folder.toml"):
        assert name in told(*command.split(), name)


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("-x", "-x would be read as an option by the commands that are given this folder; choose another with --out"),
        ("loop", "loop must be a folder that can be written, and it is a link that leads nowhere; choose another with"),
        ("x" * 300, "cannot be read or written (file name too long)"),
    ],
)
@pytest.mark.parametrize("command", ["train", "ablate --norm bn", "study lrn-or-bn"])
def test_a_folder_that_cannot_be_made_is_seen_before_any_work(told, tmp_path, command, out, sentence):
    (tmp_path / "loop").symlink_to("loop")
    assert sentence in told(*command.split(), f"--out={out}")


# Root may read everything, unless it gives up these capabilities.
AS_USER = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


@pytest.mark.skipif(bool(AS_USER) and shutil.which("setpriv") is None, reason="needs setpriv of util-linux as root")
@pytest.mark.parametrize("words", ["study secret/mine.toml", "status secret", "train --recipe secret/mine.toml"])
def test_what_this_user_may_not_read_is_named(tmp_path, words):
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "mine.toml").write_text("[factors]\nnorm = ['bn']")
    folder.chmod(0)
    program = "from alexnet_ablations.cli import main; main()"
    command = [*AS_USER, sys.executable, "-c", program, *words.split()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, cwd=tmp_path)
    finally:
        folder.chmod(0o700)  # so that the folder can be removed
    assert done.returncode == 2
    assert "secret" in done.stderr
    assert "permission denied" in done.stderr or "is not readable" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "ablate --norm bn --seeds 1000000000",
            "a study has at most 10,000 runs, and 2 cells x 1,000,000,000 seeds are",
        ),
        ("ablate --norm bn --seeds 1000000 --plan", "take at most 5,000 seeds, or name fewer levels"),
        ("ablate --norm bn --seeds 1000000 --yes 1000000000", "take at most 5,000 seeds, or name fewer levels"),
        (
            "study lrn-or-bn --seeds 1000000000",
            "and 8 cells x 1,000,000,000 seeds are 8,000,000,000; take at most 1,250",
        ),
        (
            f"ablate --batch-size {','.join(map(str, range(1, 5000)))}",
            "names 4,999 levels, and a study has at most 1,000",
        ),
        (
            "ablate --design factorial "
            + " ".join(
                f"--{name} .1,.2,.3,.4"
                for name in ("dropout", "momentum", "ema", "weight-decay", "clip-norm", "width", "label-smoothing")
            ),
            "a study has at most 1,000 cells, and the design factorial makes 78,125 of these levels; name fewer, or",
        ),
    ],
)
def test_a_study_that_is_too_large_is_refused_before_its_runs_are_listed(told, monkeypatch, words, sentence):
    def fail(*_arguments):
        raise AssertionError("listed")

    monkeypatch.setattr("alexnet_ablations.declare.design.Cell.recipe", fail)
    assert sentence in told(*words.split())


@pytest.mark.parametrize("program", ["/x/__main__.py", "pytest", "-c", ""])
def test_the_program_is_called_alexnet_lab_however_it_was_started(told, program):
    assert "alexnet-lab train --help says what it takes" in told("train", "--dropout=x", program=program)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            MemoryError(),
            "the memory of this machine is not enough for this command; close other programs, or take less",
        ),
        (OSError(28, "No space left on device"), "writing or reading failed (no space left on device); see to that"),
        (
            FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
            "no folder for temporary files can be",
        ),
    ],
)
def test_what_the_machine_lacks_is_one_sentence(told, monkeypatch, error, sentence):
    def fail(*_arguments):
        raise error

    monkeypatch.setattr("alexnet_ablations.cli.status._show_study", fail)
    monkeypatch.setattr("pathlib.Path.is_dir", lambda _path: True)
    assert told("status", "somewhere").startswith(sentence)


def test_a_fault_of_the_program_itself_is_not_hidden(monkeypatch):
    def fail(*_arguments):
        raise ZeroDivisionError

    monkeypatch.setattr("alexnet_ablations.cli.status._show_study", fail)
    monkeypatch.setattr("pathlib.Path.is_dir", lambda _path: True)
    monkeypatch.setattr(sys, "argv", ["alexnet-lab", "status", "somewhere"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_ctrl_c_ends_any_command_without_a_word(monkeypatch, capsys):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("alexnet_ablations.cli.networks._print_list", interrupt)
    monkeypatch.setattr(sys, "argv", ["alexnet-lab", "networks"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert "Traceback" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("text", ["{", "[1]", "null", "{}", "\x00"])
def test_a_damaged_verdict_is_named_and_how_to_go_on(told, study, text):
    run = study.runs()[0].folder
    (run.path / "state.json").write_text(text)
    line = told("export", str(run.path), "--to", "csv")  # inspect and compare name it on their page
    assert line.startswith(f"{run.path / 'state.json'} is damaged (")
    assert line.endswith("); leave it as it is: the command that made the run makes it again")


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
        (None, "--weights: mine.pth does not exist; give a run's folder, a folder of runs, a .pth"),
        (b"no weights", "--weights: mine.pth is not a torch file, or an incomplete one; fetch or save it again"),
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
    sizes = ("--image-size", "16384", "--width", "1")
    line = told("train", *sizes, "--quiet", "--threads", "1", "--out", "run")
    assert line == "a network for 16384 pixels, width 1, does not fit in memory; take a smaller image_size or width"
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


def test_a_cache_that_cannot_be_written_is_told_with_the_variable_that_moves_it(monkeypatch):
    monkeypatch.setenv("ALEXNET_LAB_CACHE", "/dev/null/cache")
    line = sentence_of(NotADirectoryError(20, "Not a directory", "/dev/null/cache/images/1"), [])
    assert line.endswith("; set ALEXNET_LAB_CACHE to a folder for decoded images that can be written")


def test_a_field_that_was_not_typed_keeps_its_own_name():
    assert sentence_of(ValueError("width: must be greater than 0"), ["train", "--recipe", "x"]).startswith("width: ")
