"""The command line as a user meets it."""

import csv
import json
import re
import subprocess
import sys

import pytest
from commands import answered

EVERY = (
    *("ablate", "study", "status", "retry", "train", "networks"),
    *("cache", "report", "inspect", "compare", "export", "bench"),
    *("audit", "predict", "evaluate", "explain"),
)
HEAVY = ("torch", "sklearn", "scipy", "matplotlib", "triton", "pandas")


def alexnet_lab(*arguments, cwd=None, check=True):
    done = subprocess.run(
        [sys.executable, "-c", "from alexnet_ablations.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        timeout=900,
        env=None,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def told(*words):
    """Return what a command that only tells something prints."""
    done = answered(*words, cwd=".")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def answers():
    """What commands that only tell something print, and which heavy modules were there by then.

    All are asked of one process, so the first that imports torch is named, and those behind it.
    """
    asked = [
        ["--help"],
        *([c, "--help"] for c in EVERY),
        ["study", "--list"],
        ["bench", "lrn", "--help"],
        ["--version"],
    ]
    program = f"""
import contextlib, sys
from alexnet_ablations.cli import main
for arguments in {asked!r}:
    sys.argv = ["alexnet-lab", *arguments]
    print("\\fanswer", flush=True)
    with contextlib.suppress(SystemExit):
        main()
    print([name for name in {HEAVY!r} if name in sys.modules], flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    printed = [answer.rstrip("\n").rpartition("\n") for answer in done.stdout.split("\fanswer\n")[1:]]
    return {" ".join(words): (told, heavy) for words, (told, _, heavy) in zip(asked, printed, strict=True)}


def test_help_answers_without_importing_anything_heavy(answers):
    assert {words: heavy for words, (_, heavy) in answers.items() if heavy != "[]"} == {}
    assert [words for words, (told, _) in answers.items() if len(told) < 5] == []


def test_every_command_has_a_help_with_an_example(answers):
    for command in EVERY:
        assert command in answers["--help"][0]
        assert f"alexnet-lab {command} " in answers[f"{command} --help"][0]


@pytest.mark.parametrize("command", ["ablate", "train"])
def test_the_options_of_the_recipe_stand_in_panels_by_subject(command, answers):
    text, _ = answers[f"{command} --help"]
    panels = re.findall(r"^╭─ (\w+) ", text, re.MULTILINE)
    own = ["Options", "Study"] if command == "ablate" else ["Options"]
    assert panels == [*own, "Network", "Transfer", "Data", "Optimisation", "Instruments", "Machine"]
    parts = dict(zip(panels, re.split(r"^╭─ ", text, flags=re.MULTILINE)[1:], strict=True))
    for panel, option in (
        ("Network", "--norm"),
        ("Data", "--augment"),
        ("Optimisation", "--ten-views"),
        ("Instruments", "--instruments"),
        ("Machine", "--threads"),
    ):
        assert option in parts[panel]
    assert ("--seeds" in parts["Study"]) if command == "ablate" else ("--seed " in parts["Options"])


def test_the_shell_completes_commands_and_options(monkeypatch):
    monkeypatch.setenv("_ALEXNET_LAB_COMPLETE", "complete_bash")
    for typed, completed in (("alexnet-lab abl", "ablate"), ("alexnet-lab train --learn", "--learning-rate")):
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
        assert alexnet_lab().stdout.split() == [completed]
    monkeypatch.delenv("_ALEXNET_LAB_COMPLETE")
    assert "--install-completion" in alexnet_lab("--help").stdout


def test_networks_lists_all_and_shows_one():
    listing = told("networks")
    for name in ("alexnet", "mobilenet_v3_large", "source2012", "torchvision"):
        assert name in listing
    table = told("networks", "alexnet", "--preset", "paper", "--norm", "bn")
    assert "norm5" in table
    assert "60,967,976 parameters" in table  # 60,965,224 and two for each of 1,376 channels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["networks", "alexnt"], "unknown network 'alexnt'. Did you mean 'alexnet'"),
        (["networks", "vgg11", "--preset", "paper"], "only alexnet has presets"),
        (["networks", "alexnet", "--norm", "bm"], "Did you mean 'bn'"),
        (["networks", "alexnet", "--image-size", "20"], "the smallest that works is 52"),
        (["ablate"], "nothing to ablate: name at least one of --network"),
        (["ablate", "--norm", "lrn"], "is the baseline itself"),
        (["ablate", "--norm", "bm"], "unknown norm level 'bm'. Did you mean 'bn'"),
        (["ablate", "--norm", "bn,bn"], "--norm: names bn twice"),
        (["ablate", "--norm", "bn", "--design", "fractal"], "unknown design 'fractal'. Did you mean 'fractional'"),
        (["ablate", "--norm", "bn", "--design", "fractional"], "at least 4 factors, got 1"),
        (["ablate", "--norm", "bn", "--baseline", "nrom=lrn"], "unknown field in --baseline 'nrom'"),
        (["ablate", "--norm", "bn", "--epochs", "0"], "epochs: must be greater than or equal to 1"),
        (
            ["ablate", "--dropout", ",".join(f"0.{i:02}" for i in range(90)), "--out", "s"],
            "this study makes 540 runs, more than 200; name fewer levels or seeds, take --design one-at-a-time, "
            "or allow them with --yes 540",
        ),
        (["ablate", "--norm", "bn,none", "--act", "leaky,prelu,elu", "--seeds", "40"], "makes 240 runs, more than 200"),
        (["study", "lrn-or-nb"], "unknown study 'lrn-or-nb'. Did you mean 'lrn-or-bn'"),
        (["study", "mine.toml"], "there is no study file mine.toml"),
    ],
)
def test_a_mistake_ends_as_one_clear_line(arguments, message, tmp_path):
    done = answered(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


# Images and a network with which a run takes a second.
FEW = ("--data", "synthetic:classes=3,side=16,count=107", "--baseline", "width=0.0625")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder in which studies are made that share what forks their runs."""
    return tmp_path_factory.mktemp("place")


def made(*words, cwd, status=0):
    """Return what a command printed that ended with this status."""
    done = answered(*words, cwd=cwd)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.mark.long
def test_a_plan_is_printed_without_training_anything(tmp_path):
    command = ("ablate", "--norm", "bn,none", "--act", "leaky", "--dropout", "0.3,0", "--seeds", "2", "--out", "s")
    said = made(*command, "--epochs", "3", *FEW, "--jobs", "1", "--plan", cwd=tmp_path)
    text = " ".join(said.split())
    assert "one-at-a-time: 6 cells x 2 seeds = 12 runs of 3 epochs" in text
    assert "all levels crossed would be 18 cells: --design factorial makes them all" in text
    assert "Interactions cannot be estimated" in text
    assert "time to expect: about" in text
    assert "disk: about" in text
    assert "cannot go below p = 0.5" in text
    assert {path.name for path in (tmp_path / "s").iterdir()} == {"calibration.json"}


@pytest.mark.long
@pytest.mark.usefixtures("timed_here")
def test_a_study_is_saved_as_a_file_that_says_the_same(tmp_path):
    shared = (*FEW[:3], "width=0.0625,norm=none", "--epochs", "2", "--seeds", "4")
    flags = ("--act", "prelu", "--norm", "bn,lrn:k=1,alpha=2", *shared)
    saved = made("ablate", *flags, "--plan", "--save", "mine.toml", "--out", "a", cwd=tmp_path)
    again = made("study", "mine.toml", "--plan", "--out", "a", cwd=tmp_path)
    assert saved.splitlines()[1:] == again.splitlines()
    assert "norm {none, bn, lrn:alpha=2.0,k=1.0}" in again
    refused = made("ablate", "--norm", "bn", "--plan", "--save", "mine.toml", cwd=tmp_path, status=2)
    assert "mine.toml exists and says something else" in refused


@pytest.mark.long
@pytest.mark.usefixtures("forked_together", "timed_here")
def test_ablate_trains_prints_and_goes_on_where_it_was(place):
    factors, few = ("--norm", "bn", "--act", "leaky"), ("--epochs", "1", "--out", "study", *FEW[:2])
    command = ("ablate", *factors, "--seeds", "1", *few)
    first = made(*command, cwd=place)
    assert "4 cells x 1 seed = 4 runs of 1 epoch" in first
    assert "[4/4]" in first
    assert "norm: lrn → bn" in first
    with (place / "study" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["ok"] * 4
    for norm in ("lrn", "bn"):
        for act in ("relu", "leaky"):
            run = place / "study" / "runs" / f"norm={norm},act={act}" / "seed-0"
            assert json.loads((run / "recipe.json").read_text())["norm"] == norm
            assert (run / "checkpoints" / "best.safetensors").stat().st_size > 1_000_000

    stamps = {path: path.stat().st_mtime_ns for path in place.glob("study/runs/*/*/state.json")}
    again = made(*command, cwd=place)
    assert "4 already done" in again
    assert "[1/" not in again
    assert stamps == {path: path.stat().st_mtime_ns for path in place.glob("study/runs/*/*/state.json")}

    # A run that was lost, and one more seed: only those are made.
    (place / "study/runs/norm=bn,act=leaky/seed-0/state.json").unlink()
    grown = made("ablate", *factors, "--seeds", "2", *few, cwd=place)
    assert "3 already done" in grown
    assert "[5/5]" in grown


@pytest.mark.long
@pytest.mark.usefixtures("timed_here")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--batch-size", "2000"), "batch size 2000 is larger than the 1079 training images"),
        (("--image-size", "20"), "the smallest that works is"),
        (("--image-size", "20"), "--baseline sets image_size for all cells instead of varying it"),
        (("--weights", "absent.pth"), "absent.pth"),
        (("--norm", "bn", "--data", "nowhere"), "nowhere"),
    ],
)
def test_a_cell_that_cannot_be_trained_is_refused_before_any_is(flags, message, tmp_path):
    done = answered("ablate", *flags, "--seeds", "1", "--epochs", "1", "--out", "s", cwd=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "s").exists()


@pytest.mark.long
@pytest.mark.usefixtures("forked_together", "timed_here")
def test_a_packaged_study_runs_on_the_digits_and_grows(place):
    study = ("study", "dropout", "--epochs", "1", "--out", "s", "--seeds", "1", "--baseline")
    command = (*study, "width=0.0625,batch_size=256")
    first = made(*command, "--design", "one-at-a-time", cwd=place)
    assert "Is dropout 0.3 better than 0.5" in first
    assert "4 cells x 1 seed = 4 runs of 1 epoch" in first
    # Crossed, the four cells that are there are not made again.
    crossed = made(*command, cwd=place)
    assert "6 cells x 1 seed = 6 runs of 1 epoch; 4 already done" in crossed
    assert "[2/2]" in crossed
    other = made(*study, "width=0.125,batch_size=256", cwd=place, status=2)
    assert "s holds another study, which differs in width (0.0625, asked for 0.125)" in other
