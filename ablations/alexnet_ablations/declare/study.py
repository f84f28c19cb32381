"""A study: cells times seeds, in one folder, with an identity that a second call can recognise.

STUDY/study.toml                 what was asked for, and what tuning chose; a folder holds one study, which may grow
STUDY/runs/<cell>/seed-<k>/      run folders, each written by its own run
STUDY/runs/<cell and fold>/      the same, if each seed divides the images into folds
STUDY/tuning/<cell and values>/  the same of a search for each cell's best values, if the study is tuned
STUDY/tuned/<cell and values>/   the same of cells at chosen values that are not the recipe's own
STUDY/results.csv                one row per cell and seed
STUDY/report/                    index.html, tables.md, tables.tex, figures/: what they say together
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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
from alexnet_ablations.declare.splitting import Splitting, cell_in_fold, read_splitting
from alexnet_ablations.declare.toml import toml_value
from alexnet_ablations.declare.tuning import Tuning, read_tuning, shared_sentence
from alexnet_lab.display import Displayed
from alexnet_lab.networks.catalogue import published_level
from alexnet_lab.records import RunFolder, write_atomically
from alexnet_lab.training.recipe import Recipe, read_recipe
from alexnet_lab.training.weight_sources import find_weights

SAID = ("margin", "level")
NO_LEVEL = (
    "a level is a validation accuracy, and images with several findings have none: leave out level; `patience` ends "
    "a run that no longer improves"
)
LARGEST_AREA_MARGIN = 0.5  # of an AUROC, from guessing to perfect
# By cell, with its fold if there are folds: the values that each of its searches chose.
Chosen = Mapping[str, tuple[Mapping[str, float], ...]]


@dataclass(frozen=True)
class PlannedRun:
    """One cell under one seed, and the folder it belongs in; no other run of a study has the same cell and seed."""

    cell: Cell  # with its fold, where the images are divided into folds
    seed: int
    recipe: Recipe
    folder: RunFolder
    whole: Cell | None = None  # the cell as it is compared, where this run is tested on one of several folds

    @property
    def compared(self) -> Cell:
        """Return the cell as it is compared: without the fold."""
        return self.whole or self.cell

    @property
    def key(self) -> tuple[str, int]:
        """Name the run within its study."""
        return self.cell.name, self.seed

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
class Study(Displayed):
    """Factors, a design that says which of their levels meet, and several seeds, from one starting recipe.

    A notebook shows what the runs in its folder say.
    """

    shown_by = "alexnet_ablations.report.display:study_html"

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
    # What each cell is searched for before it is compared, and what that chose so far: see tune/.
    tuning: Tuning | None = None
    chosen: Chosen = field(default_factory=dict)
    splitting: Splitting = field(default_factory=Splitting)

    def __post_init__(self) -> None:
        """Refuse a study that is too large before any of its runs is listed."""
        check_size(self.design, self.factors, self.seeds, self.splitting.folds)
        if self.tuning is not None:  # as if every run of a search were a run under one more seed
            together = self.tuning.searches(self.seeds) * self.tuning.points + self.seeds
            check_size(self.design, self.factors, together, self.splitting.folds)
        if self.start.has_findings:
            self._check_findings()

    def _check_findings(self) -> None:
        """Refuse what is said of accuracy where images have several findings: these are compared by AUROC."""
        if self.level is not None:
            raise ValueError(NO_LEVEL)
        if self.margin is not None and self.margin >= LARGEST_AREA_MARGIN:
            raise ValueError(
                f"images have several findings, so the margin is of the mean AUROC, below {LARGEST_AREA_MARGIN:g}; got "
                f"{self.margin:g}; take for example 0.01"
            )

    @property
    def size(self) -> int:
        """Count the runs without listing them."""
        return count_cells(self.design, self.factors) * self.seeds * len(self.splitting.parts)

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
        """Return sentences about what this design cannot estimate, and what all its cells share."""
        shared = shared_sentence(self.start, self.factors, self.tuning)
        limitations = [*limitations_of(self.design, self.factors), *([shared] if shared else [])]
        if self.tuning is not None and self.tuning.once:
            limitations.append(
                "Each cell was tuned once: intervals and tests are about other seeds at the chosen values, and another "
                "search might choose others, so that equal cells may seem to differ; without `once` every seed has a "
                "search of its own."
            )
        return limitations

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
        return list(self._runs)

    @cached_property
    def _runs(self) -> tuple[PlannedRun, ...]:
        cells = self.cells
        return tuple(
            self._planned(cell, seed, fold)
            for seed in range(self.seeds)
            for fold in self.splitting.parts
            for cell in cells
        )

    def chosen_for(self, cell: Cell, seed: int) -> Mapping[str, float] | None:
        """Return the values that a search chose for a cell, with its fold, under a seed; None where none has."""
        by_search = self.chosen.get(cell.name, ())
        at = self.tuning.search_of(seed) if self.tuning is not None else 0
        return by_search[at] if self.tuning is not None and at < len(by_search) else None

    def grown_from_folder(self) -> "Study":
        """Return this study together with what its folder already holds of it; another study's folder is refused."""
        path = self.folder / "study.toml"
        if not path.exists():
            return self
        theirs = read_study(path, self.folder)
        if self._identity() != theirs._identity():
            raise ValueError(
                f"{self.folder} holds another study, which differs in {', '.join(self._differences(theirs))} "
                f"(see {path}); choose another folder with --out"
            )
        mine = {factor.field: factor.levels for factor in self.factors}
        factors = tuple(
            Factor(factor.field, tuple(dict.fromkeys((*factor.levels, *mine[factor.field]))))
            for factor in theirs.factors
        )
        return replace(
            self,
            factors=factors,
            seeds=max(self.seeds, theirs.seeds),
            about=self.about or theirs.about,
            margin=self.margin or theirs.margin,
            level=self.level or theirs.level,
            looks=theirs.looks_after(max(self.seeds, theirs.seeds)),
            tuning=theirs.tuning.extended_by(self.tuning)
            if theirs.tuning and self.tuning
            else self.tuning or theirs.tuning,
            chosen={**theirs.chosen, **self.chosen},
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
        machine = () if whole else ("device", "threads", "processes")
        shared = {
            name: value
            for name, value in self._shared().items()
            if value is not None and name not in machine and (whole or value != default[name])
        }
        baselines = self._baselines().items()
        lines = [f"about = {toml_value(self.about)}"] if self.about else []
        lines += [f"design = {toml_value(self.design)}", f"seeds = {self.seeds}"]
        lines += [f"{name} = {toml_value(value)}" for name, value in self.splitting.words().items()]
        lines += [f"{name} = {toml_value(value)}" for name in SAID if (value := getattr(self, name)) is not None]
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
        if self.tuning is not None:
            lines += ["", "[tune]  # searched for every cell, chosen on validation"]
            lines += [f"{name} = {toml_value(value)}" for name, value in self.tuning.words().items()]
        if self.chosen and whole:
            lines += ["", "[chosen]  # by the searches of each cell, in the order of the seeds"]
            lines += [
                f"{toml_value(cell)} = [{', '.join(map(_inline, by_search))}]"
                for cell, by_search in self.chosen.items()
            ]
        return "\n".join(lines) + "\n"

    def _planned(self, cell: Cell, seed: int, fold: str) -> PlannedRun:
        trained, start = cell_in_fold(cell, fold), self.splitting.start_of(self.start, seed)
        own = trained.recipe(start, seed)
        compared = cell if fold else None
        if self.tuning is None:
            return PlannedRun(trained, seed, own, self._folder("runs", trained, seed), compared)
        values = self.chosen_for(trained, seed)
        if values is None:  # not to be made before its values are chosen
            return PlannedRun(trained, seed, own, self._folder("tuned", trained, seed), compared)
        at_values = cell_in_fold(Cell((*cell.settings, *values.items())), fold)
        recipe = at_values.recipe(start, seed)
        folder = self._folder("runs", trained, seed) if recipe == own else self._folder("tuned", at_values, seed)
        return PlannedRun(trained, seed, recipe, folder, compared)

    def _folder(self, place: str, cell: Cell, seed: int) -> RunFolder:
        return RunFolder(self.folder / place / cell.name / f"seed-{seed}")

    def _shared(self) -> dict[str, Any]:
        varied = {factor.field for factor in self.factors} | {"seed"}
        return {name: value for name, value in vars(self.start).items() if name not in varied}

    def _baselines(self) -> dict[str, Any]:
        return {factor.field: factor.levels[0] for factor in self.factors}

    def _identity(self) -> dict[str, Any]:
        return {**vars(self.splitting), **self._shared(), **self._baselines()}

    def _differences(self, other: "Study") -> list[str]:
        mine, theirs = (s._identity() for s in (self, other))
        fields = {factor.field for factor in self.factors} ^ {factor.field for factor in other.factors}
        differences = [f"its factors ({', '.join(factor.field for factor in other.factors)})"] if fields else []
        differences += [
            f"{name} ({level_text(theirs.get(name))}, asked for {level_text(mine[name])})"
            for name in mine
            if name not in fields and mine[name] != theirs.get(name)
        ]
        return differences


def read_study(path: Path, folder: Path) -> Study:
    """Read a study file, or the study.toml of a study's folder."""
    words = read_study_file(path)
    try:
        return declare_study(
            words["factors"],
            {**words["recipe"], **words["baseline"]},
            folder,
            design=words.get("design"),
            seeds=words.get("seeds", 3),
            about=words.get("about", ""),
            margin=words.get("margin"),
            level=words.get("level"),
            looks=words.get("looks", ()),
            tune=words.get("tune"),
            chosen=words.get("chosen"),
            folds=words.get("folds"),
            resplit=words.get("resplit", False),
        )
    except ValueError as error:
        raise ValueError(f"in {path}, {error}") from None


def declare_study(
    factors: dict[str, Any],
    start: dict[str, Any],
    folder: str | Path,
    *,
    design: str | None = None,
    seeds: int = 3,
    about: str = "",
    margin: float | None = None,
    level: float | None = None,
    looks: Sequence[int] = (),
    tune: str | Mapping[str, Any] | None = None,
    chosen: Mapping[str, Any] | None = None,
    folds: int | None = None,
    resplit: bool = False,
) -> Study:
    """Return a study from text as flags and files have it; raise ValueError for any mistake in it.

    >>> study = declare_study({"norm": "bn,none", "dropout": [0.3]}, {"data": "digits"}, "runs/norms", seeds=6)

    `factors` are levels by field of the recipe, beside the baseline's, which is what `start` says or else what is
    published. `start` holds fields of the recipe that all cells share. `tune` is what --tune takes, such as
    `learning_rate:8`, or the table [tune] of a study file. With `folds`, each seed divides the images anew and tests
    each of them once; with `resplit`, it draws its own training, validation and test images.
    """
    folder = Path(folder).expanduser()
    if seeds < 1:
        raise ValueError(f"a study needs at least one seed, got {seeds}")
    recipe = read_recipe({**start, "seed": 0})
    declared = read_factors(factors, recipe)
    if design is None and (folder / "study.toml").exists():
        design = read_study_file(folder / "study.toml").get("design")
    recipe = read_recipe({**vars(recipe), **{factor.field: factor.levels[0] for factor in declared}})
    design = design or default_design(declared)
    check_design(design, declared)
    tuning = None if tune is None else read_tuning(tune, recipe, declared)
    splitting = read_splitting({"folds": folds, "resplit": resplit}, recipe)
    if tuning is not None:
        check_tuned_splits(tuning, splitting)
    return Study(
        recipe,
        declared,
        seeds,
        folder,
        design,
        about,
        margin,
        level,
        looks=tuple(looks),
        tuning=tuning,
        chosen=_read_chosen(chosen, tuning),
        splitting=splitting,
    )


def check_tuned_splits(tuning: Tuning, splitting: Splitting) -> None:
    """Refuse a search that would choose on images that its cells are then tested on."""
    if splitting.is_by_seed and tuning.once:
        word = (
            "folds divides the images anew for each seed" if splitting.folds else "resplit gives each seed other images"
        )
        raise ValueError(
            f"one search for all seeds (`once`) would choose on images that other seeds are tested on, since {word}; "
            "leave `once` out"
        )


def refuse_unfit_weights(runs: Sequence[PlannedRun]) -> None:
    """Raise the error of the first run whose weights are missing, unfinished or of another network."""
    for run in runs:
        find_weights(run.recipe)


def _read_chosen(words: Mapping[str, Any] | None, tuning: Tuning | None) -> Chosen:
    """Read the table [chosen], which alexnet-lab writes; what does not fit the search in it is a mistake."""
    if not words or tuning is None:
        return {}
    for cell, searches in words.items():
        if not isinstance(searches, list) or not all(
            isinstance(one, dict)
            and set(one) == set(tuning.names)
            and all(type(v) in (int, float) for v in one.values())
            for one in searches
        ):
            raise ValueError(
                f"{cell} in [chosen] must be a list with a value of {', '.join(tuning.names)} for each search, got "
                f"{searches!r:.80}; delete the table, and the same command chooses again"
            )
    return {cell: tuple(searches) for cell, searches in words.items()}


def _inline(values: Mapping[str, float]) -> str:
    """Write values as an inline table of TOML."""
    return "{" + ", ".join(f"{name} = {toml_value(value)}" for name, value in values.items()) + "}"


def as_published(recipe: Recipe) -> Recipe:
    """Write out what each slot that was left open is published with."""
    slots = {name: getattr(recipe, name) for name in SLOTS}
    published = {name: published_level(recipe.network, recipe.preset, name) for name in SLOTS}
    return read_recipe({**vars(recipe), **{n: published[n] if v is None else v for n, v in slots.items()}})


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more cells" if len(names) > 3 else "")
