"""Trackers get a copy of a study and can never cost it a run."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tracked import RESULT, begin, make, row

from alexnet_ablations.run.coordinator import Watcher
from alexnet_ablations.run.tracking import Mirror, mirrored


class Recorder:
    """Writes down what it is told."""

    def __init__(self):
        self.heard = []
        self.threads = set()

    def run_started(self, run):
        self.threads.add(threading.get_ident())
        self.heard.append(("started", run.name, run.recipe["norm"]))

    def epoch(self, run, row):
        self.heard.append(("epoch", run.name, row["epoch"]))

    def run_ended(self, run, verdict):
        self.heard.append(("ended", run.name, verdict["state"]))

    def close(self):
        self.heard.append(("closed",))


def test_a_sink_hears_each_run_once_and_in_order_from_another_thread(planned):
    sink, told = Recorder(), []
    mirror = Mirror(sink, "study", told.append)
    make(planned("bn"), mirror)
    make(planned("none", seed=1), mirror, epochs=1, state="diverged")
    mirror.close()
    assert sink.heard == [
        ("started", "norm=bn,dropout=published/seed-0", "bn"),
        ("epoch", "norm=bn,dropout=published/seed-0", 1),
        ("epoch", "norm=bn,dropout=published/seed-0", 2),
        ("ended", "norm=bn,dropout=published/seed-0", "ok"),
        ("started", "norm=none,dropout=published/seed-1", "none"),
        ("epoch", "norm=none,dropout=published/seed-1", 1),
        ("ended", "norm=none,dropout=published/seed-1", "diverged"),
        ("closed",),
    ]
    assert told == []
    assert sink.threads != {threading.get_ident()}


def test_what_an_earlier_attempt_left_is_not_told_when_a_run_starts(planned):
    run, sink = planned(), Recorder()
    begin(run)
    run.folder.log(row(7))
    mirror = Mirror(sink, "study", pytest.fail)
    mirror.run_started(run)
    time.sleep(0.2)
    assert [event[0] for event in sink.heard] == ["started"]
    make(run, mirror)
    mirror.close()
    assert [event[2] for event in sink.heard if event[0] == "epoch"] == [1, 2]


def test_a_run_that_is_started_again_and_repeats_epochs_is_told_each_once(planned):
    run, sink = planned(), Recorder()
    mirror = Mirror(sink, "study", pytest.fail)
    mirror.run_started(run)
    begin(run)
    run.folder.log(row(1))
    mirror.epoch(run)
    make(run, mirror)  # killed, and begun from the start
    mirror.close()
    assert [event[0] for event in sink.heard] == ["started", "epoch", "epoch", "ended", "closed"]


def test_a_run_without_a_verdict_is_told_as_lost(planned):
    run, sink = planned(), Recorder()
    mirror = Mirror(sink, "study", pytest.fail)
    mirror.run_started(run)
    begin(run)
    mirror.run_ended(run)
    (run.folder.path / "state.json").write_text("{torn")
    mirror.run_ended(run)
    mirror.close()
    assert [event[2] for event in sink.heard if event[0] == "ended"] == ["lost", "lost"]


@pytest.mark.parametrize("where", ["run_started", "epoch", "run_ended", "close"])
def test_a_sink_that_raises_is_switched_off_and_told_once(planned, where, monkeypatch):
    sink, told = Recorder(), []

    def fail(*_):
        sink.heard.append("failed")
        raise ConnectionError("no route to host\nsecond line")

    monkeypatch.setattr(sink, where, fail)
    mirror = Mirror(sink, "study", told.append)
    for seed in range(3):
        make(planned(seed=seed), mirror)
    mirror.close()
    assert sink.heard.count("failed") == 1
    assert sink.heard[-1] == "failed"
    assert told == [
        "tracking is switched off: ConnectionError: no route to host. The study goes on; its folder has everything"
    ]


def test_a_slow_sink_delays_nobody_and_gets_everything(planned, monkeypatch):
    sink = Recorder()
    heard = sink.epoch

    def slow(*arguments):
        time.sleep(0.2)
        heard(*arguments)

    monkeypatch.setattr(sink, "epoch", slow)
    mirror = Mirror(sink, "study", pytest.fail)
    began = time.monotonic()
    for seed in range(2):
        make(planned(seed=seed), mirror)
    assert time.monotonic() - began < 0.4  # the sink alone takes 0.8
    mirror.close()
    assert len([event for event in sink.heard if event[0] == "epoch"]) == 4
    assert sink.heard[-1] == ("closed",)


def test_a_sink_that_hangs_is_left_behind_after_its_time(planned, monkeypatch):
    sink, told, release = Recorder(), [], threading.Event()
    monkeypatch.setattr(sink, "epoch", lambda *_: release.wait(30))
    mirror = Mirror(sink, "study", told.append, patience=0.3)
    make(planned(), mirror)
    began = time.monotonic()
    mirror.close()
    assert time.monotonic() - began < 5
    assert len(told) == 1
    assert "it had not finished 0.3 s after the study" in told[0]
    release.set()


class Listener(Watcher):
    """Writes down the names of what it is told."""

    def __init__(self):
        self.heard, self.notes = [], []

    def __getattribute__(self, name):
        if name in ("begin", "started", "moved", "died", "ended", "skipped", "tick", "close"):
            return lambda *_: self.heard.append(name)
        return super().__getattribute__(name)

    def note(self, text):
        self.notes.append(text)


def test_a_watcher_sees_all_that_it_would_without_a_tracker(planned, monkeypatch):
    sink, listener = Recorder(), Listener()
    done, coming = planned(seed=0), planned(seed=1)
    make(done, Mirror(Recorder(), "study", pytest.fail))
    study = SimpleNamespace(folder=Path("study"), runs=lambda: [done, coming])
    watcher = mirrored(listener, study, sink)
    watcher.begin([coming], 1)
    attempt = SimpleNamespace(run=coming, epochs=0)
    watcher.started(attempt)
    begin(coming)
    for epoch in (0, 1, 1, 2):
        if epoch > attempt.epochs:
            coming.folder.log(row(epoch))
        attempt.epochs = epoch
        watcher.moved(attempt)
    watcher.died(attempt)
    watcher.tick()
    coming.folder.end("ok", "", RESULT)
    watcher.ended(attempt)
    watcher.skipped(done)
    watcher.note("a note")
    watcher.close()
    moves = ["moved"] * 4
    assert listener.heard == ["begin", "started", *moves, "died", "tick", "ended", "skipped", "close"]
    assert listener.notes == ["a note"]
    first, second = (f"norm=bn,dropout=published/seed-{seed}" for seed in (0, 1))
    told = [event[:2] for event in sink.heard[:-1]]
    of_one = [("started", first), ("epoch", first), ("epoch", first), ("ended", first)]
    assert told == [*of_one, ("started", second), ("epoch", second), ("epoch", second), ("ended", second), *of_one]


def test_the_terminal_is_given_back_whatever_the_tracker_does(monkeypatch):
    listener = Listener()
    watcher = mirrored(listener, SimpleNamespace(folder=Path("study"), runs=list), Recorder())
    monkeypatch.setattr(watcher.mirror, "close", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        watcher.close()
    assert listener.heard == ["close"]
