"""A study: cells times seeds, in one folder, with an identity that a second call can recognise.

STUDY/study.toml                 what was asked for; a folder holds one study only, which may grow
STUDY/runs/<cell>/seed-<k>/      run folders, each written by its own run
STUDY/results.csv                one row per run
STUDY/report/                    index.html, tables.md, tables.tex, figures/: what they say together
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alexnet_ablations.declare.contrasts import Contrast, contrasts_of, limitations_of
from alexnet_ablations.declare.declaration import SLOTS, read_factors, read_study_file
from alexnet_ablations.declare.design import (
    Cell,
    Factor,
    cells_of,
    check_design,
    check_size,
    count_cells,
    default_design,
    level_text,
)
from alexnet_ablations.declare.toml import toml_value
from alexnet_lab.networks.catalogue import published_level
from alexnet_lab.records import RunFolder, write_atomically
from alexnet_lab.training.recipe import Recipe, read_recipe
from alexnet_lab.training.weight_sources import find_weights

SAID = ("margin", "level")


@dataclass(frozen=True)
class PlannedRun:
    """One cell under one seed, and the folder it belongs in."""

    cell: Cell
    seed: int
    recipe: Recipe
    folder: RunFolder

    @property
    def is_done(self) -> bool:
        """Return whether this recipe has ended here, well or diverged, and its records are as the run wrote them."""
        try:
            verdict = self.folder.verdict()
        except ValueError:  # a damaged verdict is none
            return False
        is_final = verdict is not None and verdict["state"] in ("ok", "diverged")
        return is_final and self._is_recorded and self._has_its_weights and not self.folder.damages()

    @property
    def _is_recorded(self) -> bool:
        """Compare recipes as they are read: a field that is younger than the run has its default there."""
        try:
            recorded = self.folder.recipe()
            return recorded is not None and read_recipe(recorded) == self.recipe
        except ValueError:  # damaged, or written by another version, with fields or levels unknown to this one
            return False

    @property
    def _has_its_weights(self) -> bool:
        """Return whether the weights that the run began with are those that its recipe names today.

        Weights that are gone change nothing: what was made with them stays.
        """
        if not self.recipe.weights:
            return True
        try:
            recorded = (self.folder.provenance() or {}).get("weights_digest")
            source = find_weights(self.recipe)
        except (ValueError, OSError):
            return True
        return recorded is None or source is None or recorded == source.digest


@dataclass(frozen=True)
class Study:
    """Factors, a design that says which of their levels meet, and several seeds, from one starting recipe."""

    start: Recipe
    factors: tuple[Factor, ...]
    seeds: int
    folder: Path
    design: str = "factorial"
    about: str = ""
    # These change what is concluded and not which runs are made. None: see conclude/conclusions.py and outcomes.py.
    margin: float | None = None
    level: float | None = None
    looks: tuple[int, ...] = ()  # seeds of the reports that were there before the study was extended

    def __post_init__(self) -> None:
        """Refuse a study that is too large before any of its runs is listed."""
        check_size(self.design, self.factors, self.seeds)

    @property
    def size(self) -> int:
        """Count the runs without listing them."""
        return count_cells(self.design, self.factors) * self.seeds

    @property
    def cells(self) -> list[Cell]:
        """Return the cells, baseline first."""
        return cells_of(self.design, self.factors)

    def contrasts(self) -> list[Contrast]:
        """Return which cells stand against which: all that this design can estimate."""
        return contrasts_of(self.design, self.factors)

    @property
    def crossed(self) -> int:
        """Count the cells that crossing all levels would make."""
        return count_cells("factorial", self.factors)

    @property
    def is_default_design(self) -> bool:
        """Return whether this is the design that these factors get unless another is named."""
        return self.design == default_design(self.factors)

    @property
    def limitations(self) -> list[str]:
        """Return sentences about what this design cannot estimate."""
        return limitations_of(self.design, self.factors)

    def warnings(self) -> list[str]:
        """Return warnings about settings that do not work well together, and about cells that are the same network."""
        cells = self.cells
        recipes = {cell.name: cell.recipe(self.start, 0) for cell in cells}
        concerned: dict[str, list[str]] = {}
        for name, recipe in recipes.items():
            for warning in recipe.warnings():
                concerned.setdefault(warning, []).append(name)
        warnings = [
            warning if len(names) == len(cells) else f"in {_some(names)}: {warning}"
            for warning, names in concerned.items()
        ]
        networks: dict[str, list[str]] = {}
        for name, recipe in recipes.items():
            networks.setdefault(as_published(recipe).identity(""), []).append(name)
        alike = [names for names in networks.values() if len(names) > 1]
        return warnings + [f"{_some(names)} are one and the same: they differ by nothing" for names in alike]

    def runs(self) -> list[PlannedRun]:
        """Return every run, seed by seed, so that an interrupted study is still balanced."""
        cells = self.cells
        return [
            PlannedRun(cell, seed, cell.recipe(self.start, seed), RunFolder(self._run_path(cell, seed)))
            for seed in range(self.seeds)
            for cell in cells
        ]

    def grown_from_folder(self) -> "Study":
        """Return this study together with what its folder already holds of it; another study's folder is refused."""
        path = self.folder / "study.toml"
        if not path.exists():
            return self
        theirs = read_study(path, self.folder)
        if self._shared() != theirs._shared() or self._baselines() != theirs._baselines():
            raise ValueError(
                f"{self.folder} holds another study, which differs in {', '.join(self._differences(theirs))} "
                f"(see {path}); choose another folder with --out"
            )
        mine = {factor.field: factor.levels for factor in self.factors}
        factors = tuple(
            Factor(known.field, tuple(dict.fromkeys((*known.levels, *mine[known.field])))) for known in theirs.factors
        )
        return replace(
            self,
            factors=factors,
            seeds=max(self.seeds, theirs.seeds),
            about=self.about or theirs.about,
            margin=self.margin or theirs.margin,
            level=self.level or theirs.level,
            looks=theirs.looks_after(max(self.seeds, theirs.seeds)),
        )

    def looks_after(self, seeds: int) -> tuple[int, ...]:
        """Return the looks before so many seeds: a report on fewer seeds has been read before the study went on."""
        was_read = seeds > self.seeds and (self.folder / "report" / "index.html").exists()
        return (*self.looks, self.seeds) if was_read else self.looks

    def open_folder(self) -> "Study":
        """Write study.toml; a study that is there already grows by seeds and levels, and another one is refused."""
        grown = self.grown_from_folder()
        check_design(grown.design, grown.factors)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / "study.toml", grown.to_toml(whole=True))
        except OSError as error:
            raise ValueError(
                f"{self.folder} must be a folder that can be written ({error.strerror}); choose another with --out"
            ) from None
        return grown

    def to_toml(self, *, whole: bool) -> str:
        """Write the study as a file that `alexnet-lab study` reads; whole: every field, defaults and machine too."""
        default = vars(Recipe())
        machine = () if whole else ("device", "threads")
        shared = {
            name: value
            for name, value in self._shared().items()
            if value is not None and name not in machine and (whole or value != default[name])
        }
        baselines = self._baselines().items()
        lines = [f"about = {toml_value(self.about)}"] if self.about else []
        lines += [f"design = {toml_value(self.design)}", f"seeds = {self.seeds}"]
        lines += [f"{name} = {toml_value(said)}" for name in SAID if (said := getattr(self, name)) is not None]
        if self.looks and whole:
            lines.append(f"looks = {toml_value(list(self.looks))}  # seeds of the reports before this one")
        lines += ["", "[baseline]  # what each change is held against"]
        lines += [f"{name} = {toml_value('published' if level is None else level)}" for name, level in baselines]
        lines += ["", "[factors]"]
        lines += [
            f"{f.field} = {toml_value(['published' if v is None else v for v in f.changes])}" for f in self.factors
        ]
        if shared:
            lines += ["", "[recipe]  # what all cells share"]
            lines += [f"{name} = {toml_value(value)}" for name, value in shared.items()]
        return "\n".join(lines) + "\n"

    def _run_path(self, cell: Cell, seed: int) -> Path:
        return self.folder / "runs" / cell.name / f"seed-{seed}"

    def _shared(self) -> dict[str, Any]:
        varied = {factor.field for factor in self.factors} | {"seed"}
        return {name: value for name, value in vars(self.start).items() if name not in varied}

    def _baselines(self) -> dict[str, Any]:
        return {factor.field: factor.levels[0] for factor in self.factors}

    def _differences(self, other: "Study") -> list[str]:
        mine, theirs = ({**s._shared(), **s._baselines()} for s in (self, other))
        fields = {factor.field for factor in self.factors} ^ {factor.field for factor in other.factors}
        told = [f"its factors ({', '.join(factor.field for factor in other.factors)})"] if fields else []
        told += [
            f"{name} ({level_text(theirs.get(name))}, asked for {level_text(mine[name])})"
            for name in mine
            if name not in fields and mine[name] != theirs.get(name)
        ]
        return told


def read_study(path: Path, folder: Path) -> Study:
    """Read a study file, or the study.toml of a study's folder."""
    words = read_study_file(path)
    try:
        return declare(
            words["factors"],
            {**words["recipe"], **words["baseline"]},
            folder,
            design=words.get("design"),
            seeds=words.get("seeds", 3),
            about=words.get("about", ""),
            margin=words.get("margin"),
            level=words.get("level"),
            looks=words.get("looks", ()),
        )
    except ValueError as error:
        raise ValueError(f"in {path}, {error}") from None


def declare(
    factors: dict[str, Any],
    start: dict[str, Any],
    folder: Path,
    *,
    design: str | None = None,
    seeds: int = 3,
    about: str = "",
    margin: float | None = None,
    level: float | None = None,
    looks: Sequence[int] = (),
) -> Study:
    """Return a study from text as flags and files have it; raise ValueError for any mistake in it."""
    if seeds < 1:
        raise ValueError(f"a study needs at least one seed, got {seeds}")
    recipe = read_recipe({**start, "seed": 0})
    chosen = read_factors(factors, recipe)
    if design is None and (folder / "study.toml").exists():
        design = read_study_file(folder / "study.toml").get("design")
    recipe = read_recipe({**vars(recipe), **{factor.field: factor.levels[0] for factor in chosen}})
    design = design or default_design(chosen)
    check_design(design, chosen)
    return Study(recipe, chosen, seeds, folder, design, about, margin, level, tuple(looks))


def refuse_unfit_weights(runs: Sequence[PlannedRun]) -> None:
    """Raise the error of the first run whose weights are missing, unfinished or of another network."""
    for run in runs:
        find_weights(run.recipe)


def as_published(recipe: Recipe) -> Recipe:
    """Write out what each slot that was left open is published with."""
    slots = {name: getattr(recipe, name) for name in SLOTS}
    published = {name: published_level(recipe.network, recipe.preset, name) for name in SLOTS}
    return read_recipe({**vars(recipe), **{n: published[n] if v is None else v for n, v in slots.items()}})


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more cells" if len(names) > 3 else "")
