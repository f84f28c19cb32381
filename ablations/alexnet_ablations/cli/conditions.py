"""Which flags of ablate are varied and which hold for all cells; device, threads and folder where none is named."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_ablations.declare.declaration import FACTORS, SHARED, read_baseline, read_study_file

if TYPE_CHECKING:
    from alexnet_ablations.declare.study import Study

# What a study starts from, and how long its runs are. Every other field is named in order to vary it.
SET_BY_ONE_VALUE = ("network", "preset", "epochs")
NAME_LIMIT = 120  # characters of a study folder's name


def divide(options: Mapping[str, Any], baseline: str | None) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the factors that flags name, and the values that hold for all cells.

    A single value of a field in SET_BY_ONE_VALUE holds for all cells, unless --baseline names a value to compare with.
    """
    named = {name: value for name, value in options.items() if value is not None}
    compared = read_baseline(baseline or "")
    factors: dict[str, str] = {}
    shared: dict[str, Any] = {}
    for name, value in named.items():
        levels = _levels_of(value) if name in SET_BY_ONE_VALUE else []
        if name in FACTORS and (len(levels) != 1 or name in compared):
            factors[name] = value
        else:
            shared[name] = levels[0] if levels else value
    for name, value in shared.items():
        if name in FACTORS:
            continue
        if isinstance(value, str) and "," in value and name != "data":  # a path may have commas
            raise ValueError(f"{name}: takes one value for all cells ({SHARED[name]}); got {value!r}")
        if name in compared:
            raise ValueError(f"{name} is named twice, in --baseline and by itself; name it once")
    # Of several numbers of epochs the first is the baseline: no number is the published one.
    if "epochs" in factors and "epochs" not in compared:
        shared["epochs"], *others = _levels_of(factors["epochs"])
        factors["epochs"] = ",".join(others)
    return factors, {**shared, **compared}


def _levels_of(text: str) -> list[str]:
    return [level for level in map(str.strip, text.replace(";", ",").split(",")) if level]


def on_this_machine(start: Mapping[str, Any], folder: Path, jobs: int | None) -> dict[str, Any]:
    """Return device and threads where nobody chose them; a study that has begun keeps those it has."""
    from alexnet_ablations.run.slots import usable_cores

    stored: dict[str, Any] = {}
    if (folder / "study.toml").exists():
        stored = read_study_file(folder / "study.toml")["recipe"]
    chosen = {**stored, **start}
    return {
        "device": chosen.get("device") or ("cuda" if _has_gpu() else "cpu"),
        "threads": chosen.get("threads") or (max(usable_cores() // jobs, 1) if jobs else 1),
    }


def folder_name(study: "Study") -> str:
    """Name a study after its data and what it changes."""
    parts = (f"{f.field}-{'+'.join(map(str, f.changes))}" for f in study.factors)
    data = Path(study.start.data.partition(":")[0]).stem
    splits = [f"{name}-{value}" if name == "folds" else name for name, value in study.splitting.words().items()]
    return re.sub(r"[^\w.,=+-]", "-", "_".join([data, *parts, *splits]))[:NAME_LIMIT]


def _has_gpu() -> bool:
    if not Path("/dev/nvidiactl").exists():  # asking torch costs seconds, and there is nothing to ask about
        return False
    import torch

    return torch.cuda.is_available()
