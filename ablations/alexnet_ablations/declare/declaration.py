"""What flags and study files say becomes factors and recipes; both are read alike.

Levels are separated by commas, and the arguments of a norm or an activation stay with it: `lrn:k=1,alpha=2,bn` are two.
Where a level has commas of its own, semicolons separate: `none;flip,crop` are two augmentations, `flip,crop;` is one.
`published` is a level of network slots: whatever each network was published with.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from alexnet_ablations.declare.design import MOST_CELLS, Factor, level_text
from alexnet_ablations.declare.toml import read_toml
from alexnet_lab.choices import unknown_choice
from alexnet_lab.levels import split_levels
from alexnet_lab.networks.catalogue import CATALOGUE, networks_with_presets, published_level
from alexnet_lab.training.recipe import NAMED, Recipe, named_recipe, read_recipe

RECIPE_FIELDS = tuple(field.name for field in fields(Recipe))
DEFAULTS: Mapping[str, Any] = vars(Recipe())
# What a study file may hold besides.
TABLES = ("recipe", "baseline", "factors")
TUNING_TABLES = ("tune", "chosen")  # of a study that is tuned: declare/tuning.py, declare/study.py
KINDS: Mapping[str, type] = {
    "about": str,
    "design": str,
    "seeds": int,
    "folds": int,
    "resplit": bool,
    **dict.fromkeys(("margin", "level"), float),
    "looks": list,
    **dict.fromkeys((*TABLES, "executor", *TUNING_TABLES), dict),
}
_KIND_WORDS: Mapping[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list: "a list",
}
# Fields with one value for all cells, and why.
SHARED: Mapping[str, str] = {
    "data": "results on two sets of images are not compared: make one study of each",
    "fold": "which images are tested is the same for every cell",
    "split_seed": "which images are tested is the same for every cell",
    "skip_bad": "which images are used is the same for every cell",
    "group": "which images are tested is the same for every cell",
    "patient_from": "which images are tested is the same for every cell",
    "findings": "what an image is labelled with is the same for every cell",
    "drop_duplicates": "which images are used is the same for every cell",
    "allow_leaks": "which images are used is the same for every cell",
    "best_by": "every cell is judged by the same metric",
    "instruments": "every cell is looked at in the same way",
    "deterministic": "it is where and how a study runs, not what it compares",
    "device": "it is where and how a study runs, not what it compares",
    "threads": "it is where and how a study runs, not what it compares",
    "processes": "it is where and how a study runs, not what it compares",
    "seed": "every cell runs under every seed: say how many with --seeds",
}
FACTORS = tuple(name for name in RECIPE_FIELDS if name not in SHARED)
SLOTS = ("preset", "norm", "act", "dropout")  # where None is: as published
EXAMPLES: Mapping[str, str] = {
    "norm": "bn,none",
    "act": "leaky:0.1,prelu",
    "dropout": "0.3",
    "preset": "review",
    "init": "published",
    "network": "resnet18",
    "batch_size": "16,64",
    "learning_rate": "0.003",
    "augment": '"flip,crop;"',
    "ten_views": "true",
    "weights": "runs/cifar10",
    "freeze": "features",
    "sampling": "balanced",
    "class_weights": "balanced",
}

Words = str | Sequence[Any]  # levels as a flag has them, or as a list in a file


def read_start(recipe: str) -> dict[str, Any]:
    """Return the fields that a named recipe or a TOML file sets; a mistake in a file is told with its name."""
    path = Path(recipe)
    if recipe in NAMED or not (path.suffix == ".toml" or path.is_file()):
        return named_recipe(recipe)
    if not path.is_file():
        raise ValueError(f"there is no recipe file {path}; name a TOML file, or one of {', '.join(NAMED)}")
    values = read_toml(path)
    try:
        values = {**named_recipe(str(values.pop("recipe", "laptop"))), **values}
        check_switches(values)
        read_recipe(values)
    except ValueError as error:
        raise ValueError(f"in {path}, {error}") from None
    return values


def check_switches(values: Mapping[str, Any]) -> None:
    """Refuse true and false in fields that are no switches: they would be read as the numbers 1 and 0."""
    for name, value in values.items():
        if isinstance(value, bool) and name in RECIPE_FIELDS and not isinstance(DEFAULTS[name], bool):
            raise ValueError(f"{name}: must not be true or false (got {str(value).lower()})")


def read_baseline(text: str) -> dict[str, Any]:
    """Read `norm=lrn,act=relu`; a piece without a field's name belongs to the level before it."""
    pieces = [p for p in map(str.strip, text.split(";" if ";" in text else ",")) if p]
    levels: dict[str, str] = {}
    latest = ""
    for piece in pieces:
        head, equals, level = piece.partition("=")
        if equals and head.replace("-", "_") in RECIPE_FIELDS:
            latest = head.replace("-", "_")
            if latest in levels:
                raise ValueError(f"--baseline names {latest} twice; name each field once")
            levels[latest] = level
        elif latest and ";" not in text and ":" in levels[latest]:
            levels[latest] += "," + piece
        elif equals:
            raise unknown_choice("field in --baseline", head, RECIPE_FIELDS)
        else:
            raise ValueError(f"--baseline takes field=level, for example norm=lrn,act=relu; got {piece!r}")
    return {field: _plain(field, level) for field, level in levels.items()}


def read_factors(given: Mapping[str, Words], start: Recipe) -> tuple[Factor, ...]:
    """Read all factors; what is published of a slot may depend on which networks are in the study."""
    for name in given:
        if name in SHARED:
            raise ValueError(f"{name}: takes one value for all cells ({SHARED[name]})")
        if name not in FACTORS:
            raise unknown_choice("factor", name, FACTORS)
    chosen = {name: read_factor(name, given[name], start) for name in ("network", "preset") if name in given}
    networks = chosen["network"].levels if "network" in chosen else (start.network,)
    presets = chosen["preset"].levels if "preset" in chosen else (start.preset,)
    others = [network for network in networks if not CATALOGUE[network].presets]
    if others and "preset" in given:
        raise ValueError(
            f"only {', '.join(networks_with_presets())} has presets, and {others[0]} has none; "
            "ablate preset or network, not both"
        )
    return tuple(
        chosen[name] if name in chosen else read_factor(name, words, start, networks, presets)
        for name, words in given.items()
    )


def read_factor(
    field: str, words: Words, start: Recipe, networks: Sequence[str] = (), presets: Sequence[str | None] = ()
) -> Factor:
    """Read the levels to compare with the baseline, as in `bn,none`; the baseline itself is put first."""
    pieces = _split(field, words) if isinstance(words, str) else list(words)
    if not pieces:
        raise ValueError(f"{field}: names no level; name one or several, for example {_example(field)}")
    if len(pieces) > MOST_CELLS:
        raise ValueError(f"{field}: names {len(pieces):,} levels, and a study has at most {MOST_CELLS:,} cells")
    levels = [_level(field, piece, start) for piece in pieces]
    twice = [level for level, count in Counter(levels).items() if count > 1]
    if twice:
        raise ValueError(f"{field}: names {level_text(twice[0])} twice; name each level once")
    baseline = _baseline(field, start, networks or (start.network,), presets or (start.preset,))
    others = [level for level in levels if level != baseline]
    if not others:
        text = ",".join(map(str, pieces))
        raise ValueError(
            f"{field}: {text} is the baseline itself; name a level to compare it with, for example {_example(field)}, "
            "or leave it out. --baseline sets a value in every cell"
        )
    return Factor(field, (baseline, *others))


def packaged_studies() -> dict[str, Path]:
    """Return the studies that come with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "studies").glob("*.toml"))}


def find_study(source: str) -> Path:
    """Return the file that a path or the name of a packaged study stands for."""
    path, packaged = Path(source), packaged_studies()
    if source in packaged and not path.is_file():
        return packaged[source]
    if path.is_dir() and (path / "study.toml").exists():
        return path / "study.toml"
    if path.is_file():
        return path
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder without a study.toml; name a study's folder, a study file, or one of "
            f"{', '.join(packaged)}"
        )
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise ValueError(f"there is no study file {source}; alexnet-lab study --list names those that are packaged")
    raise unknown_choice("study", source, packaged)


def read_study_file(path: Path) -> dict[str, Any]:
    """Return what a study file says: about, design, seeds, margin, level, looks, and its tables."""
    words = read_toml(path)
    try:
        _check_kinds(words)
        _check_numbers(words)
        for table in TABLES:
            words[table] = {name.replace("-", "_"): value for name, value in words.get(table, {}).items()}
        _check_factors(words["factors"])
        check_switches({**words["recipe"], **words["baseline"]})
        start = read_start(str(words["recipe"].pop("recipe", "laptop")))
    except ValueError as error:
        raise ValueError(f"in {path}, {error}") from None
    words["recipe"] = {**start, **words["recipe"]}
    words["baseline"] = {name: _plain(name, value) for name, value in words["baseline"].items()}
    return words


def _check_factors(factors: Mapping[str, Any]) -> None:
    if not factors:
        raise ValueError('it has no factor; add a table [factors], for example with norm = ["bn", "none"]')
    for name, levels in factors.items():
        if not isinstance(levels, str | list):
            expected = "a list of levels or text as a flag has it"
            raise ValueError(f"{name} must be {expected}, got {levels!r}")  # noqa: TRY004  # a mistake in a file ends as one line
        for level in levels if isinstance(levels, list) else []:
            check_switches({name: level})


def _check_kinds(words: Mapping[str, Any]) -> None:
    for name, value in words.items():
        if name not in KINDS:
            raise unknown_choice("word", name, KINDS)
        accepted = (int, float) if KINDS[name] is float else KINDS[name]
        if not isinstance(value, accepted) or (isinstance(value, bool) and KINDS[name] is not bool):
            expected = _KIND_WORDS[KINDS[name]]
            raise ValueError(f"{name} must be {expected}, got {value!r}")  # a mistake in a file ends as one line


def _check_numbers(words: Mapping[str, Any]) -> None:
    if words.get("seeds", 1) < 1:
        raise ValueError(f"seeds must be at least 1, got {words['seeds']}")
    for name, most in (("margin", math.inf), ("level", 1)):
        value = words.get(name, 1)
        if not 0 < value <= most or math.isinf(value):
            raise ValueError(f"{name} must be above 0{' and up to 1' * (most == 1)}, got {value}")
    looks = words.get("looks", [])
    if not all(type(n) is int and n > 0 for n in looks) or looks != sorted(set(looks)):
        raise ValueError(f"looks must be a list of whole numbers of seeds that grow, such as [3, 6], got {looks}")


def _split(field: str, text: str) -> list[str]:
    if ";" not in text and field in ("norm", "act"):
        return split_levels(text)
    return [p for p in map(str.strip, text.split(";" if ";" in text else ",")) if p]


def _baseline(field: str, start: Recipe, networks: Sequence[str], presets: Sequence[str | None]) -> Any:
    """Return what the starting recipe says of a field, or else what its network was published with."""
    value = getattr(start, field)
    if value is not None or field not in SLOTS:
        return value
    published = {published_level(network, preset, field) for network in networks for preset in presets}
    only = published.pop()
    # None where networks differ, or one has several: then the baseline is whatever each was published with.
    return None if published or only is None else _level(field, only, start)


def _level(field: str, level: Any, start: Recipe) -> Any:
    """Check one level, and bring its spellings to one."""
    return getattr(read_recipe({**vars(start), field: _plain(field, level)}), field)


def _plain(field: str, level: Any) -> Any:
    """Read the two words that stand for nothing written: published, and none where text may be empty."""
    if field in SLOTS and level == "published":
        return None
    return "" if field in ("weights", "fold") and level == "none" else level


def _example(field: str) -> str:
    return EXAMPLES.get(field, "another value")
