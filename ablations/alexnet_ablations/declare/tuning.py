"""What is searched anew for every cell before cells are compared: fields, their ranges, and how many values are tried.

    learning_rate                          8 values around the recipe's own
    learning_rate=1e-4..1e-1:16            16 values between these
    learning_rate,weight_decay:16          16 pairs of values
    learning_rate:8:once                   one search per cell instead of one per cell and seed

A study file says the same in its table [tune].
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from alexnet_ablations.declare.design import MOST_RUNS, Factor
from alexnet_lab.choices import unknown_choice
from alexnet_lab.training.recipe import Recipe, read_recipe

# Seeds of the searches begin where those of a study can never reach: the comparison is made with fresh ones.
FIRST_SEED = MOST_RUNS
POINTS_PER_FIELD = 8
FEWEST_POINTS = 2  # the recipe's own value and another
MOST_POINTS = 256
AROUND = "around"  # in a study file: the range around the recipe's own value
DECADE = 10.0  # a range on a log scale goes from a tenth of the recipe's own value to ten times it
COMPLEMENT = 3.0  # and of 1 - momentum from a third to three times
SIGNIFICANT = 3  # digits of a value that is tried

Scale = Literal["log", "linear", "log of 1 - x"]
# The fields that can be tuned, and the scale on which their values are spread.
TUNABLE: Mapping[str, Scale] = {
    "learning_rate": "log",
    "weight_decay": "log",
    "warmup_epochs": "linear",
    "momentum": "log of 1 - x",
    "label_smoothing": "linear",
    "clip_norm": "log",
}
# What a comparison depends on most, and all cells share unless it is tuned or varied; what 0 is called.
NUISANCES: Mapping[str, str] = {"learning_rate": "", "weight_decay": "no weight decay", "warmup_epochs": "no warm-up"}
_EXAMPLE = "for example --tune learning_rate:8, or --tune learning_rate=1e-4..1e-1:8"


@dataclass(frozen=True)
class TunedField:
    """A field of the recipe and the range it is searched in; None: around the recipe's own value."""

    field: str
    range: tuple[float, float] | None = None

    def bounds(self, start: Recipe) -> tuple[float, float]:
        """Return the ends of the range; raise ValueError where the recipe's own value has no range around it."""
        if self.range is not None:
            return self.range
        own, scale = float(getattr(start, self.field)), TUNABLE[self.field]
        if scale == "linear":
            usual = start.epochs / 4 if self.field == "warmup_epochs" else 0.2
            return 0.0, max(usual, 2 * own)
        span = (own / DECADE, own * DECADE)
        if scale == "log of 1 - x":
            span = (1 - (1 - own) * COMPLEMENT, 1 - (1 - own) / COMPLEMENT)
        if own == 0 or span[0] < 0:
            raise ValueError(
                f"{self.field} is {own:g} in the recipe, and there is no range around that; name the range, "
                f"for example --tune {self.field}={_range_example(self.field)}"
            )
        return span

    def value(self, share: float, start: Recipe) -> float:
        """Return the value at a share of the range, 0 to 1, with a few significant digits."""
        low, high = self.bounds(start)
        scale = TUNABLE[self.field]
        if scale == "linear":
            return _rounded(low + share * (high - low))
        if scale == "log":
            return _rounded(low * (high / low) ** share)
        return round(1 - _rounded((1 - low) * ((1 - high) / (1 - low)) ** share), 9)


@dataclass(frozen=True)
class Tuning:
    """A search: every cell is tried at the same values, and takes the one that is best on validation."""

    fields: tuple[TunedField, ...]
    points: int  # values that are tried; the first is the recipe's own
    once: bool = False  # one search per cell for all seeds, instead of one for each seed

    @property
    def names(self) -> tuple[str, ...]:
        """Return the fields that are searched."""
        return tuple(field.field for field in self.fields)

    def searches(self, seeds: int) -> int:
        """Return how many searches each cell gets in a study of so many seeds."""
        return 1 if self.once else seeds

    def search_of(self, seed: int) -> int:
        """Return the search whose choice the run under this seed is made with."""
        return 0 if self.once else seed

    def extended_by(self, requested: "Tuning") -> "Tuning":
        """Return both together: more points, searches for more seeds; another search is refused."""
        if self.names != requested.names:
            raise ValueError(
                f"this study tunes {', '.join(self.names)}, and --tune asks for {', '.join(requested.names)}; "
                "name the same fields, or choose another folder with --out"
            )
        for mine, theirs in zip(self.fields, requested.fields, strict=True):
            if theirs.range is not None and theirs.range != mine.range:
                present = AROUND if mine.range is None else _range_text(mine.range)
                raise ValueError(
                    f"this study searches {mine.field} in the range {present}, and --tune asks for "
                    f"{_range_text(theirs.range)}; leave the range out, or choose another folder with --out"
                )
        return replace(self, points=max(self.points, requested.points), once=self.once and requested.once)

    def words(self) -> dict[str, Any]:
        """Return what a study file says in its table [tune]."""
        ranges = {f.field: AROUND if f.range is None else _range_text(f.range) for f in self.fields}
        return {**ranges, "points": self.points, **({"once": True} if self.once else {})}


def read_tuning(words: "str | Mapping[str, Any]", start: Recipe, factors: Sequence[Factor]) -> Tuning:
    """Read what a flag or the table [tune] of a study file says; raise ValueError for any mistake in it."""
    tuning = _from_text(words) if isinstance(words, str) else _from_table(words)
    varied = {factor.field for factor in factors}
    for field in tuning.fields:
        _check_field(field.field, varied)
        _check_range(field, start)
        field.bounds(start)
    if tuning.points < FEWEST_POINTS:
        raise ValueError(
            f"a search takes at least 2 points, the recipe's own value and another; got {tuning.points}; {_EXAMPLE}"
        )
    if tuning.points > MOST_POINTS:
        raise ValueError(f"a search takes at most {MOST_POINTS} points, got {tuning.points}; name fewer")
    return tuning


def names_points(words: "str | Mapping[str, Any]") -> bool:
    """Return whether a flag or a table [tune] says how many points are tried."""
    if not isinstance(words, str):
        return "points" in words
    return any(part.strip() not in ("", "once") for part in words.split(":")[1:])


def shared_sentence(start: Recipe, factors: Sequence[Factor], tuning: Tuning | None) -> str:
    """Say which of the settings that matter most all cells share; empty where each is varied or tuned."""
    apart = {factor.field for factor in factors} | set(tuning.names if tuning else ())
    named = [
        zero if zero and not getattr(start, field) else f"{field.replace('_', ' ')} {getattr(start, field):g}"
        for field, zero in NUISANCES.items()
        if field not in apart
    ]
    if tuning is not None:
        own = " and ".join(name.replace("_", " ") for name in tuning.names)
        sentence = f"Each cell has its own {own}{'' if tuning.once else ' under each seed'}, chosen on validation"
        return f"{sentence}; all cells share {', '.join(named)}." if named else f"{sentence}."
    if not named:
        return ""
    return (
        f"All cells share {', '.join(named)}: a change that wants other values is compared below its best; "
        "--tune learning_rate:8 chooses for each cell."
    )


def _from_text(text: str) -> Tuning:
    body, *rest = [part.strip() for part in text.split(":")]
    named = [_field_from_text(piece) for piece in body.split(",") if piece.strip()]
    if not named:
        raise ValueError(f"--tune names no field, got {text!r}; {_EXAMPLE}")
    once = "once" in rest
    counts = [part for part in rest if part != "once"]
    if len(counts) > 1 or (counts and not counts[0].lstrip("+-").isdecimal()):
        raise ValueError(f"--tune takes fields and then how many points, got {text!r}; {_EXAMPLE}")
    points = int(counts[0]) if counts else POINTS_PER_FIELD * len(named)
    return Tuning(_once_each(named), points, once)


def _field_from_text(piece: str) -> TunedField:
    name, equals, span = (part.strip() for part in piece.partition("="))
    return TunedField(name.replace("-", "_"), _range_from(name, span) if equals else None)


def _from_table(table: Mapping[str, Any]) -> Tuning:
    named = []
    for name, value in table.items():
        if name in ("points", "once"):
            continue
        is_pair = isinstance(value, list) and len(value) == 2 and all(_is_number(end) for end in value)
        if not (is_pair or isinstance(value, str)):
            raise ValueError(
                f'{name} in [tune] must be "{AROUND}", "1e-4..1e-1" or a list of two numbers, got {value!r}'
            )
        span = None if value == AROUND else (float(value[0]), float(value[1])) if is_pair else _range_from(name, value)
        named.append(TunedField(name.replace("-", "_"), span))
    if not named:
        raise ValueError(f'[tune] names no field; add one, for example learning_rate = "{AROUND}"')
    points, once = table.get("points", POINTS_PER_FIELD * len(named)), table.get("once", False)
    if not isinstance(points, int) or isinstance(points, bool):
        raise ValueError(f"points in [tune] must be a whole number, got {points!r}")  # noqa: TRY004  # a mistake in a file ends as one line
    if not isinstance(once, bool):
        raise ValueError(f"once in [tune] must be true or false, got {once!r}")  # noqa: TRY004  # a mistake in a file ends as one line
    return Tuning(_once_each(named), points, once)


def _once_each(named: Sequence[TunedField]) -> tuple[TunedField, ...]:
    names = [field.field for field in named]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"--tune names {twice} twice; name each field once")
    return tuple(named)


def _range_from(name: str, text: str) -> tuple[float, float]:
    low, dots, high = text.partition("..")
    try:
        ends = (float(low), float(high))
    except ValueError:
        ends = (math.nan, math.nan)
    if not dots or not all(map(math.isfinite, ends)):
        raise ValueError(f"the range of {name} is two numbers, as in {name}=1e-4..1e-1; got {text!r}")
    return ends


def _check_field(name: str, varied: set[str]) -> None:
    names = {field.name for field in fields(Recipe)}
    if name not in names:
        raise unknown_choice("field to tune", name, TUNABLE)
    if name in varied:
        raise ValueError(
            f"{name} is varied between the cells, so it cannot be tuned within them; vary it or tune it, not both "
            f"(--baseline {name}=VALUE sets the recipe's own value)"
        )
    if name not in TUNABLE:
        is_number = _is_number(getattr(Recipe(), name))
        why = "changes what a run costs or is measured by" if is_number else "is not a number that can be searched"
        raise ValueError(f"{name} cannot be tuned: it {why}; vary it as a factor, or tune one of {', '.join(TUNABLE)}")


def _check_range(field: TunedField, start: Recipe) -> None:
    if field.range is None:
        return
    low, high = field.range
    if low >= high:
        raise ValueError(
            f"the range of {field.field} goes from the lower end to the higher, got {_range_text(field.range)}"
            + (f"; take {field.field}={_range_text((high, low))}" if low > high else "")
        )
    for end in field.range:
        read_recipe({**vars(start), field.field: end})
    if TUNABLE[field.field] == "log" and low <= 0:
        raise ValueError(
            f"{field.field} is searched on a log scale, so its range begins above 0, got {_range_text(field.range)}; "
            f"take for example {field.field}={_range_example(field.field)}"
        )


def _range_text(ends: tuple[float, float]) -> str:
    return "..".join(f"{end:g}" if float(f"{end:g}") == end else repr(end) for end in ends)


def _range_example(name: str) -> str:
    return {"clip_norm": "0.1..10", "momentum": "0.5..0.99"}.get(name, "1e-5..1e-2")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT}g}")
