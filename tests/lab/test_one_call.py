"""train(): one call makes a run, shows how far it is, survives an interruption, and gives the command's numbers."""

import json
import sys
import time
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch

from alexnet_lab import Recipe, load_run, train
from alexnet_lab.live import MOST_LINES, Interrupted, NotebookConsole, in_notebook, live_on, screen
from alexnet_lab.progress import LiveBar
from alexnet_lab.records import RunFolder
from alexnet_lab.training.errors import DivergedError
from alexnet_lab.training.run import train_with_verdict
from alexnet_lab.training.single import finished

TINY = Recipe(data="synthetic:classes=3,side=16,count=90", norm="bn", width=1 / 16, epochs=2, batch_size=16, threads=1)


def numbers_of(folder):
    """Return the metrics of a run without what the clock measured."""
    clocked = ("seconds", "images_per_second")
    rows = RunFolder(folder).metrics()
    return [{name: value for name, value in row.items() if name not in clocked} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run as the command makes it: in a process that does nothing else with torch."""
    folder = tmp_path_factory.mktemp("undisturbed")
    threads = torch.get_num_threads()
    assert train_with_verdict(TINY, RunFolder(folder)) == 0
    torch.set_num_threads(threads)
    return folder


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: train(norm="bm"), "unknown norm level 'bm'. Did you mean 'bn'"),
        (lambda folder: train("papper"), "unknown recipe 'papper'. Did you mean 'paper'"),
        (lambda folder: train(epoch=3), "unknown recipe field 'epoch'. Did you mean 'epochs'"),
        (lambda folder: train(folder=folder, data="nowhere", quiet=True), "nowhere"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_hold_another_run_is_not_made_again_unless_its_name_is_the_recipes(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin(TINY.to_json(), {}, "{}")
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match=r"may hold another run, whose recipe cannot be read \(.*\); choose another"):
        finished(TINY, folder, is_named=True)
    assert finished(TINY, folder, is_named=False) == (None, "")


def test_one_call_makes_the_run_of_the_command_and_gives_torch_back(undisturbed, tmp_path, capsys):
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(7)
    before = torch.get_num_threads()
    try:
        run = train(TINY, tmp_path / "run")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.get_num_threads() == before
    assert numbers_of(run.path) == numbers_of(undisturbed)
    mine, theirs = run.network().state_dict(), load_run(undisturbed).network().state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert "epoch   2" in capsys.readouterr().out

    written = run.path.joinpath("state.json").stat().st_mtime_ns
    assert train(TINY, run.path, quiet=True).recipe == run.recipe
    assert run.path.joinpath("state.json").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="holds a run that differs in seed; choose another folder"):
        train(TINY, run.path, seed=1)
    assert capsys.readouterr().out == ""


def test_a_run_that_diverges_is_told_with_its_folder(tmp_path):
    wild = replace(TINY, learning_rate=1e20, norm="none", epochs=1)
    with pytest.raises(DivergedError, match=f"the loss was .* its records are in {tmp_path}"):
        train(wild, tmp_path, quiet=True)
    with pytest.raises(DivergedError):  # and it is not made again
        train(wild, tmp_path, quiet=True)


@pytest.fixture
def notebook(monkeypatch):
    """A stand-in of IPython in a notebook's kernel; returns what its cell shows, the latest last."""
    shown = []
    handle = SimpleNamespace(update=lambda content, raw: shown.append(content))

    def display(content, raw, display_id):
        shown.append(content)
        return handle

    ipython, of_display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=1)
    of_display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", of_display)
    return shown


def test_a_notebook_s_cell_keeps_lines_and_redraws_below_them(notebook):
    console = screen()
    assert isinstance(console, NotebookConsole)
    live = live_on(console)
    live.start()
    console.print("<script>alert(1)</script> [bold]", markup=False)
    live.update("drawn once", refresh=True)
    live.update("drawn again", refresh=True)
    assert [("drawn" in content["text/plain"]) for content in notebook] == [False, True, True]
    latest = notebook[-1]
    assert latest["text/plain"].split() == ["<script>alert(1)</script>", "[bold]", "drawn", "again"]
    assert "<script" not in latest["text/html"]
    live.stop()
    assert "drawn" not in notebook[-1]["text/plain"]
    for number in range(MOST_LINES + 5):
        console.print(f"line {number}")
    assert "line 4\n" not in notebook[-1]["text/plain"]
    assert "line 5\n" in notebook[-1]["text/plain"]


def test_the_bar_of_a_run_is_drawn_in_a_notebook(notebook):
    bar = LiveBar(screen())
    bar("begin", {"epochs": 2, "steps_per_epoch": 5, "done": 0})
    time.sleep(0.15)
    bar("step", {"epoch": 1, "step": 3, "loss": 0.5, "accuracy": 0.25, "images_per_second": 10.0})
    assert "epoch 1  loss 0.500  accuracy 25.0%" in notebook[-1]["text/plain"]
    assert "3/10" in notebook[-1]["text/plain"]
    bar.close()


def test_outside_of_a_notebook_nothing_is_asked_of_ipython():
    assert not in_notebook()


CALL = """
from alexnet_lab import Recipe, train
run = train(Recipe(**{fields}), 'run')
print(len(run.metrics()), 'epochs')
"""


@pytest.mark.long
def test_a_kernel_interrupted_midway_loses_nothing_and_the_same_call_goes_on(tmp_path):
    manager = pytest.importorskip("jupyter_client.manager")
    recipe = replace(TINY, epochs=12)
    fields = {name: value for name, value in vars(recipe).items() if not name.startswith("_")}
    kernel, client = manager.start_new_kernel(cwd=str(tmp_path))
    try:
        # Or the kernel would refuse, for a moment, what is asked after an error.
        asked = client.execute(CALL.format(fields=fields), stop_on_error=False)
        deadline = time.monotonic() + 300
        while not list(RunFolder(tmp_path / "run").metrics()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        kernel.interrupt_kernel()
        answer = client.get_shell_msg(timeout=120)
        while answer["parent_header"]["msg_id"] != asked:  # to a question that the client asked when it began
            answer = client.get_shell_msg(timeout=120)
        reply = answer["content"]
        assert reply["status"] == "error", reply
        assert reply["ename"] == "Interrupted"
        assert reply["traceback"] == ["stopped, and saved in run; the same call goes on from there"]
        assert not (tmp_path / "run" / "state.json").exists()

        said = []
        reply = client.execute_interactive(CALL.format(fields=fields), timeout=300, output_hook=said.append)
        assert reply["content"]["status"] == "ok", reply
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    told = json.dumps([message["content"] for message in said])
    assert "going on at epoch" in told
    assert "12 epochs" in told
    assert train_with_verdict(recipe, RunFolder(tmp_path / "undisturbed")) == 0
    assert numbers_of(tmp_path / "run") == numbers_of(tmp_path / "undisturbed")


def test_an_interruption_shows_a_notebook_one_sentence():
    assert Interrupted("saved")._render_traceback_() == ["saved"]
    assert issubclass(Interrupted, KeyboardInterrupt)
