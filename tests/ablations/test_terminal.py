"""Whatever a name holds, the terminal shows it as text; whatever a terminal's encoding lacks, printing goes on."""

import io
import json
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from alexnet_ablations.cli import main
from alexnet_ablations.declare.study import declare_study
from alexnet_lab.progress import LiveBar, PlainLines
from alexnet_lab.terminal import STEERING, PlainConsole, as_text, open_console

# Sets the title, colours, clears the screen, goes back, reverses the order of writing, and would be Rich markup.
NASTY = "\x1b]0;owned\x07\x1b[31m\x9b2J\r\x08\u202e:warning:[bold][nosuch]"
SHOWN = "\\x1b]0;owned\\x07\\x1b[31m\\x9b2J\\x0d\\x08\\u202e:warning:[bold][nosuch]"
START = {"data": f"no {NASTY}", "epochs": 1, "threads": 1, "device": "cpu"}


def fill(run, state="ok", why=""):
    run.folder.begin(
        run.recipe.to_json(),
        {"classes": [NASTY, "b"], "alexnet_lab": "0", "notes": [NASTY]},
        json.dumps({"train": [0]}),
    )
    run.folder.log({"epoch": 1, "step": 5, "train_loss": 0.7, "validation_loss": 0.7, "validation_accuracy": 0.5})
    metrics = dict.fromkeys(("balanced_accuracy", "auroc", "top5_accuracy", "calibration_error", "loss"), 0.5)
    part = {"accuracy": 0.5, "images": 4, "confusion": [[1, 1], [1, 1]], "recall": [0.5, 0.5], **metrics}
    run.folder.end(state, why, {"tested_epoch": 1, "epochs": 1, "steps": 5, "test": part, "validation": part})


@pytest.fixture
def study(tmp_path):
    """Two cells in a folder with a name from elsewhere, about images with such a name."""
    made = declare_study({"norm": ["bn"]}, START, tmp_path / NASTY, seeds=2, about=NASTY).open_folder()
    for run in made.runs():
        fill(run)
    return made


@pytest.fixture
def printed(monkeypatch, capfdbinary, tmp_path):
    """Return a function that runs the command line and returns the bytes it wrote, standard error behind output."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["alexnet-lab", *map(str, words)])
        with pytest.raises(SystemExit):
            main()
        output = capfdbinary.readouterr()
        return output.out + output.err

    return run


def is_plain(written):
    return not STEERING.search(written.decode().replace("\n", ""))


def train_words(run):
    values = {**START, "norm": run.recipe.norm, "seed": run.seed, "out": run.folder.path}
    return ["train", *(f"--{name}={value}" for name, value in values.items() if value is not None)]


@pytest.mark.parametrize(
    "words",
    [
        "status {study}",
        "status {run}",
        "report {study}",
        "inspect {run}",
        "compare {run} {other} --out {study}/page",
        "export {run} --to csv",
        "ablate --norm bn --data {data} --epochs 1 --threads 1 --device cpu --seeds 2 --out {study}",
        "study {study}",
        "retry {data}",
        "train --data {data}",
        "train --recipe {data}.toml",
        "study {data}.toml",
        "networks {data}",
        "ablate --norm {data}",
        "status {data}",
    ],
)
def test_names_with_terminal_escapes_are_text_in_every_command(study, printed, words):
    first, second = study.runs()[:2]
    names = {"study": study.folder, "run": first.folder.path, "other": second.folder.path, "data": START["data"]}
    written = printed(*(word.format(**names) for word in words.split()))
    assert is_plain(written), written
    assert b"\\x1b" in written


def test_a_run_that_is_done_prints_its_classes_as_text(study, printed):
    written = printed(*train_words(study.runs()[0]))
    assert is_plain(written)
    assert f"recall of {SHOWN}".encode() in written
    assert written.count(b"already done") == 1


def test_recorded_reasons_are_text(study, printed):
    fill(study.runs()[0], "diverged", NASTY)
    fill(study.runs()[1], "oom", NASTY)
    for words in (["status", study.folder], ["status", study.runs()[0].folder.path], train_words(study.runs()[0])):
        written = printed(*words)
        assert is_plain(written)
        assert SHOWN.encode() in written


def test_lines_of_json_keep_the_name_and_no_control_character(study, printed):
    written = printed("status", study.folder, "--json")
    assert is_plain(written)
    assert json.loads(written)["folder"] == str(study.folder)


def test_a_name_that_is_no_utf_8_is_shown_by_its_bytes(printed, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    written = printed("status", folder)
    assert b"caf\\xe9 is neither a study" in written
    assert b"rename it" in printed("ablate", "--norm", "bn", "--data", folder, "--save", "mine.toml", "--plan")


def terminal(encoding="utf-8"):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    return PlainConsole(file=file, force_terminal=True, width=200, height=20, emoji=False), file.buffer


def without_own_sequences(written):
    """Remove what Rich itself writes to a terminal: colours, moves of the cursor, carriage returns."""
    return re.sub(rb"\x1b\[[\d;?]*[A-Za-z]|\r", b"", written)


def in_a_table():
    table = Table(NASTY.replace("[", r"\["))
    table.add_row(escape(NASTY))
    table.add_row(Text(NASTY))
    return table


@pytest.mark.parametrize(
    "show",
    [
        lambda console: console.print(NASTY, markup=False),
        lambda console: console.print(escape(NASTY), style="red"),
        lambda console: console.print(Text.assemble((NASTY, "bold"), NASTY)),
        lambda console: console.print(in_a_table()),
        lambda console: Live(in_a_table(), console=console, auto_refresh=False).__enter__().refresh(),
        lambda console: Progress(TextColumn("{task.description}", markup=False), console=console).add_task(NASTY),
        lambda console: PlainLines(console)("note", {"text": NASTY}),
        lambda console: LiveBar(console)("preparing", {"what": NASTY, "done": 1, "total": 2}),
        lambda console: LiveBar(console)("note", {"text": NASTY}),
    ],
)
def test_a_terminal_gets_no_control_character_but_its_own(show):
    console, buffer = terminal()
    show(console)
    written = without_own_sequences(buffer.getvalue())
    assert is_plain(written), written


def test_a_cell_of_a_table_is_as_wide_as_what_is_shown():
    console, buffer = terminal()
    table = Table()
    table.add_row(escape(NASTY))
    console.print(table)
    widths = {len(line) for line in without_own_sequences(buffer.getvalue()).decode().splitlines()}
    assert len(widths) == 1


def test_ordinary_text_stays_as_it_is():
    for text in ("norm: lrn → bn", "x-ray\tné 医学 🩻\n", "[a]", ""):
        assert as_text(text) == text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_an_encoding_lacks_have_substitutes(encoding):
    console, buffer = terminal(encoding)
    console.print("lrn → bn × 3 ± 1 − 2 医", highlight=False)
    shown = {
        "ascii": "lrn -> bn x 3 +/- 1 - 2 ?",
        "latin-1": "lrn -> bn × 3 ± 1 - 2 ?",
        "utf-8": "lrn → bn × 3 ± 1 − 2 医",
    }
    assert buffer.getvalue().decode(encoding).strip() == shown[encoding]


def run_in(environment, *words, cwd, **options):
    program = "from alexnet_ablations.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        env={**os.environ, **environment},
        cwd=cwd,
        capture_output="stdout" not in options,
        check=False,
        timeout=300,
        **options,
    )


ASCII = ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"})


@pytest.mark.parametrize("environment", ASCII)
def test_a_finished_study_is_printed_on_a_terminal_that_knows_ascii_alone(tmp_path, environment):
    made = declare_study({"norm": ["bn"]}, {**START, "data": "digits"}, tmp_path / "s", seeds=2).open_folder()
    for run in made.runs():
        fill(run)
    done = run_in(environment, "study", "s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"norm: lrn -> bn" in done.stdout
    assert (tmp_path / "s" / "results.csv").exists()


@pytest.mark.long
def test_a_study_is_trained_and_printed_on_a_terminal_that_knows_ascii_alone(tmp_path):
    small = ("--baseline", "batch_size=256")
    words = ("ablate", "--norm", "bn", "--seeds", 1, "--epochs", 1, *small, "--out", "s")
    done = run_in(ASCII[1], *words, cwd=tmp_path)  # where runs open their files in ASCII too
    assert done.returncode == 0, done.stderr
    assert b"norm: lrn -> bn" in done.stdout
    assert (tmp_path / "s" / "report" / "index.html").exists()


def test_files_are_written_before_anything_is_printed(study, monkeypatch):
    from alexnet_ablations.cli import run_study, tables

    def fail(*_arguments):
        raise OSError("the terminal is gone")

    monkeypatch.setattr(tables, "print_conclusions", fail)
    with pytest.raises(OSError, match="the terminal is gone"):
        run_study.conclude_and_print(Console(quiet=True), study)
    assert (study.folder / "results.csv").exists()
    assert (study.folder / "report" / "index.html").exists()


@pytest.mark.parametrize("words", [["networks"], ["--help"], ["study", "--list"]])
def test_a_reader_that_has_read_enough_ends_a_command_quietly(tmp_path, words):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        done = run_in({}, *words, cwd=tmp_path, stdout=output, stderr=subprocess.PIPE)
    assert done.stderr == b""
    assert done.returncode == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")  # noqa: PTH110
def test_a_full_disk_behind_standard_output_is_one_sentence(tmp_path):
    with open("/dev/full", "wb") as output:  # noqa: PTH123
        done = run_in({}, "networks", cwd=tmp_path, stdout=output, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == [
        "error: writing or reading failed (no space left on device); see to that, and the same command goes on"
    ]


def test_a_home_that_cannot_be_written_and_no_folder_for_temporary_files_do_not_matter_to_a_study(tmp_path):
    made = declare_study({"norm": ["bn"]}, {**START, "data": "digits"}, tmp_path / "s", seeds=2).open_folder()
    for run in made.runs():
        fill(run)
    done = run_in({"HOME": "/dev/null", "XDG_CACHE_HOME": "", "TMPDIR": "/dev/null"}, "study", "s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""


def test_standard_error_is_a_terminal_of_the_same_kind():
    assert isinstance(open_console(stderr=True), PlainConsole)
    assert open_console(stderr=True).stderr
