"""alexnet-lab inspect and compare, as a user meets them."""

import pytest
from commands import answered
from typer.testing import CliRunner

from alexnet_ablations.cli.application import application

pytestmark = pytest.mark.usefixtures("undrawn")

SMALL = {"layers": ["conv1", "fc2"], "shapes": [(8, 1, 3, 3), (4, 72)]}
EVIL = "[red]<b>x[nope]"


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_run):
    return write_run(tmp_path_factory.mktemp("runs") / "one", classes=(EVIL, "b"), data=f"{EVIL}.zip", **SMALL)


def lab(*arguments):
    done = CliRunner().invoke(application, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_inspect_prints_layers_and_findings_and_writes_a_page_with_its_figures(run, drawn):
    output = lab("inspect", run)
    assert EVIL in output  # a name is no markup of the terminal either
    lines = output.splitlines()
    assert lines.index("What speaks against it:") < next(at for at, line in enumerate(lines) if "gradient norm" in line)
    assert any(line.startswith("  Test set: ") and "95% interval" in line for line in lines)
    row = next(line for line in output.splitlines() if line.split()[:1] == ["conv1"]).split()
    assert row[-5:] == ["2", "of", "8", "64", "probe"]
    assert str(run / "report" / "index.html") in output.replace("\n", "")
    names = {path.name for path in (run / "report" / "figures").iterdir()}
    assert {"loss.png", "loss.svg", "gradient-sizes.png", "units-probe-0.svg"} <= names
    assert "<!doctype html>" in (run / "report" / "index.html").read_text()


def test_inspect_writes_where_it_is_told(write_run, tmp_path):
    bare = write_run(tmp_path / "bare", flow=False, state="diverged")
    output = lab("inspect", bare, "--out", tmp_path / "there")
    assert "diverged: the loss was nan at step 7" in " ".join(output.split())
    assert (tmp_path / "there" / "index.html").exists()
    assert not (bare / "report").exists()


def test_compare_prints_what_differs_and_how_far(run, write_run, tmp_path):
    other = write_run(tmp_path / "other", norm="bn", fall=6, **SMALL)
    output = lab("compare", run, other, "--out", tmp_path / "comparison")
    assert next(line for line in output.splitlines() if "norm" in line).split() == ["norm", "as", "published", "bn"]
    row = next(line for line in output.splitlines() if line.split()[:2] == ["gradient", "conv1"]).split()
    assert "One seed each" in output
    assert float(row[4].replace("−", "-")) == pytest.approx(
        -4.5, abs=0.5
    )  # planted: 1.5 powers of two a layer against 6
    assert (tmp_path / "comparison" / "index.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "nothing"], "error: nothing is no run folder: a run has a recipe.json"),
        (["compare", "one"], "error: a comparison needs two different runs, got one"),
    ],
)
def test_a_mistake_ends_as_one_clear_line(arguments, message, tmp_path):
    done = answered(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_record_is_named_on_the_terminal_and_the_command_goes_on(write_run, tmp_path):
    damaged = write_run(tmp_path / "run", **SMALL)
    (damaged / "flow" / "epoch-0003.npz").write_bytes(b"")
    output = " ".join(lab("inspect", damaged).split())
    assert "Damaged record: " in output
    assert "Not examined: flow/epoch-0003.npz" in output
    assert "epoch 2" in " ".join(
        lab("compare", damaged, write_run(tmp_path / "b", **SMALL), "--out", tmp_path / "c").split()
    )
