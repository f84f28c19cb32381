"""What flags say for all cells of a study: baseline, epochs, device, threads; and the folder it gets."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_ablations.declare.declaration import FACTORS, SHARED, read_baseline, read_study_words

if TYPE_CHECKING:
    from alexnet_ablations.declare.study import Study

NAME_LIMIT = 120  # characters of a study folder's name


def divide(given: Mapping[str, Any], baseline: str | None) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the factors that flags name, and the values that hold for all cells."""
    named = {name: value for name, value in given.items() if value is not None}
    factors = {name: value for name, value in named.items() if name in FACTORS}
    shared = {name: value for name, value in named.items() if name not in FACTORS}
    for name, value in shared.items():
        if isinstance(value, str) and "," in value and name != "data":  # a path may have commas
            raise ValueError(f"{name}: takes one value for all cells ({SHARED[name]}); got {value!r}")
    if "epochs" in factors:  # one number is for all cells; of several the first is the baseline
        first, _, others = factors.pop("epochs").replace(";", ",").partition(",")
        shared["epochs"] = first.strip()
        if others.strip():
            factors["epochs"] = others
    for name, level in read_baseline(baseline or "").items():
        if name in shared:
            raise ValueError(f"{name} is named twice, in --baseline and by itself; name it once")
        shared[name] = level
    return factors, shared


def on_this_machine(start: Mapping[str, Any], folder: Path, jobs: int | None) -> dict[str, Any]:
    """Return device and threads where nobody chose them; a study that has begun keeps those it has."""
    from alexnet_ablations.run.slots import usable_cores

    known: dict[str, Any] = {}
    if (folder / "study.toml").exists():
        known = read_study_words(folder / "study.toml")["recipe"]
    chosen = {**known, **start}
    return {
        "device": chosen.get("device") or ("cuda" if _has_gpu() else "cpu"),
        "threads": chosen.get("threads") or (max(usable_cores() // jobs, 1) if jobs else 1),
    }


def folder_name(study: "Study") -> str:
    """Name a study after its data and what it changes."""
    parts = (f"{f.field}-{'+'.join(map(str, f.changes))}" for f in study.factors)
    data = Path(study.start.data.partition(":")[0]).stem
    return re.sub(r"[^\w.,=+-]", "-", "_".join([data, *parts]))[:NAME_LIMIT]


def _has_gpu() -> bool:
    if not Path("/dev/nvidiactl").exists():  # asking torch costs seconds, and there is nothing to ask about
        return False
    import torch

    return torch.cuda.is_available()
