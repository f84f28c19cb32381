"""Which file a recipe's `weights` names: a published one, a file, a run's, or one of a folder of runs. Needs no torch.

A folder of runs is a study's folder, or one that holds run folders. Each network takes a run of its own network, so
that one name serves a study that compares networks. Of several runs that differ in their seed alone, in the order of
their seeds, seed k of the new study takes number k, and begins again after the last.
"""

import hashlib
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from alexnet_lab.networks.catalogue import find_entry, published_level
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe, read_recipe

BEST = Path("checkpoints") / "best.safetensors"
SLOTS = ("preset", "norm", "act", "dropout")
# Settings that decide which tensors a network has, and of which sizes.
BUILT_BY = ("network", "preset", "norm", "act", "width", "image_size")
OF_MACHINE = ("seed", "threads", "device", "deterministic", "instruments")
_SEED_FOLDER = re.compile(r"seed-\d+")


@dataclass(frozen=True)
class WeightSource:
    """Where a run's initial weights come from."""

    text: str  # as the recipe has it
    file: Path | None = None  # None: a published file, which torch.hub keeps
    digest: str = ""  # SHA-256 of the file; the names of published files contain theirs
    run: Path | None = None  # the folder of the run that trained them
    recipe: Recipe | None = None  # of that run
    classes: tuple[str, ...] = ()  # of that run
    accuracy: float | None = None  # of that run on its test images

    @property
    def description(self) -> str:
        """Say in a few words what the weights are."""
        if self.run is None or self.recipe is None:
            return self.text
        reached = "" if self.accuracy is None else f", test accuracy {self.accuracy:.1%}"
        return f"{self.run} ({self.recipe.network} trained on {self.recipe.data}{reached})"


def find_weights(recipe: Recipe) -> WeightSource | None:
    """Return where the recipe's initial weights come from; None if it names none.

    Raises ValueError or FileNotFoundError, beginning with `weights: `, for what is missing, has not finished, or is of
    another network. A file's tensors are looked at when they are loaded.
    """
    text = recipe.weights
    published = sorted({name for weights in find_entry(recipe.network).weights for name in weights.files})
    if not text:
        return None
    if text in published:
        return WeightSource(text)
    path = Path(text).expanduser()
    if not path.exists():
        kinds = ["a run's folder", "a folder of runs", "a .pth or .safetensors file", *published]
        raise FileNotFoundError(f"weights: {text} does not exist; give {', '.join(kinds[:-1])} or {kinds[-1]}")
    try:
        if path.is_dir():
            folder = path if (path / "recipe.json").exists() else _run_for(recipe, path)
            return _source_of_run(recipe, folder)
        if path.parts[-2:] == BEST.parts and (path.parents[1] / "recipe.json").exists():
            return _source_of_run(recipe, path.parents[1])
        return WeightSource(text, path, _sha256_of(path))
    except OSError as error:
        raise ValueError(f"weights: {text} cannot be read ({(error.strerror or str(error)).lower()})") from None
    except ValueError as error:
        raise ValueError(f"weights: {error}") from None


def settings_of(weights: str) -> dict[str, Any]:
    """Return how the networks were built whose runs `weights` names: those settings in which they agree.

    Files and published weights have none.
    """
    path = Path(weights).expanduser()
    if path.parts[-2:] == BEST.parts:
        path = path.parents[1]
    if not path.is_dir():
        return {}
    fields = RunFolder(path).recipe()
    runs = list(_recipes_in(path).values()) if fields is None else [_recorded_recipe(path, fields)]
    settings = {}
    for name in BUILT_BY[1:]:
        values = {getattr(run, name) for run in runs if name != "preset" or find_entry(run.network).presets}
        if len(values) == 1:
            settings[name] = values.pop()
    return settings


def differences(recipe: Recipe, other: Recipe, fields: tuple[str, ...]) -> list[str]:
    """Return those fields in which two recipes differ, with what is published written out."""
    mine, theirs = _written_out(recipe), _written_out(other)
    return [name for name in fields if mine[name] != theirs[name]]


def values_of(recipe: Recipe, fields: list[str]) -> str:
    """Write fields of a recipe with their values: `width 0.125, image_size 67`."""
    values = _written_out(recipe)
    return ", ".join(f"{name} {values[name]}" for name in fields)


def finished_run(folder: Path) -> tuple[Recipe, dict[str, Any], dict[str, Any]]:
    """Return recipe, provenance and verdict of a run that ended well; ValueError for any other folder."""
    records = RunFolder(folder)
    fields, provenance, verdict = records.recipe(), records.provenance(), records.verdict()
    if fields is None:
        raise ValueError(f"{folder} holds no run: it has no recipe.json; give a folder that alexnet-lab train wrote")
    if verdict is None or provenance is None:
        raise ValueError(f"the run in {folder} has not finished; the command that started it continues it")
    if verdict["state"] != "ok":
        why = f" ({verdict['why']})" if verdict["why"] else ""
        raise ValueError(
            f"the run in {folder} ended as {verdict['state']}{why}; only one that ended as ok has a network"
        )
    return _recorded_recipe(folder, fields), provenance, verdict


def _recorded_recipe(folder: Path, fields: dict[str, Any]) -> Recipe:
    """Return the recipe of a run's folder; ValueError that names the folder, since nobody typed these values."""
    try:
        return read_recipe(fields)
    except ValueError as error:
        raise ValueError(
            f"the recipe in {folder} is damaged, or of another version ({error}); the command that made the run makes "
            "it again"
        ) from None


def _source_of_run(recipe: Recipe, folder: Path) -> WeightSource:
    trained, provenance, verdict = finished_run(folder)
    if trained.network != recipe.network:
        raise ValueError(
            f"{folder} is a run of {trained.network}, and this network is {recipe.network}; give a run of "
            f"{recipe.network}, or a folder with a run of each network"
        )
    file = folder / BEST
    if not file.is_file():
        raise ValueError(f"{folder} has no {BEST}; the command that made the run makes it again")
    # Runs of version 0.1.0 recorded no digests.
    digest = verdict.get("files", {}).get(BEST.as_posix()) or _sha256_of(file)
    accuracy = (verdict["result"].get("test") or {}).get("accuracy")
    classes = tuple(provenance.get("classes", ()))
    return WeightSource(recipe.weights, file, digest, folder, trained, classes, accuracy)


def _run_for(recipe: Recipe, folder: Path) -> Path:
    """Return the run of a folder that a recipe starts from."""
    runs = _recipes_in(folder)
    if not runs:
        raise ValueError(f"{folder} holds no run; give a run's folder, a study's folder, or a folder of run folders")
    own = {path: trained for path, trained in runs.items() if trained.network == recipe.network}
    if not own:
        networks = ", ".join(sorted({trained.network for trained in runs.values()}))
        raise ValueError(f"{folder} holds no run of {recipe.network}; its runs are of {networks}")
    alike = {path: trained for path, trained in own.items() if not differences(recipe, trained, BUILT_BY)} or own
    first, *others = alike.values()
    telling = tuple(name for name in asdict(first) if name not in OF_MACHINE)
    differing = {name: None for other in others for name in differences(first, other, telling)}
    if differing:
        raise ValueError(
            f"{folder} holds {len(alike)} runs of {recipe.network} that differ in {', '.join(differing)}; name one of "
            f"them, for example {next(iter(alike))}"
        )
    in_order = sorted(alike, key=lambda path: (alike[path].seed, str(path)))
    return in_order[recipe.seed % len(in_order)]


def _recipes_in(folder: Path) -> dict[Path, Recipe]:
    """Return the recipes of the runs in a study's folder, or of the run folders in a folder."""
    if (folder / "study.toml").exists():
        paths = [path for path in folder.glob("runs/*/*") if _SEED_FOLDER.fullmatch(path.name)]
    else:
        paths = [path for path in folder.iterdir() if path.is_dir()]
    recipes = {}
    for path in sorted(paths):
        with suppress(ValueError):  # damaged, or not a recipe of ours
            fields = RunFolder(path).recipe()
            if fields is not None:
                recipes[path] = read_recipe(fields)
    return recipes


def _written_out(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a recipe, with the published level in slots that were left open."""
    values = asdict(recipe)
    for name in SLOTS:
        if values[name] is None:
            values[name] = published_level(recipe.network, recipe.preset, name)
    return values


def _sha256_of(path: Path) -> str:
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: Path, _size: int, _modified: int) -> str:
    """Return the SHA-256 of a file; the cells of a study ask for the same ones again and again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
