"""Tables of paths and labels, as text: the rows of a CSV or of a Parquet file.

    path        the image, relative to the table
    label       its class: text, whole numbers or categories
    split       optional: train, validation or test, or what else they are called (listings.py)
    group       optional: the patient, the slide

Names of columns are read without regard to case, other columns are left aside. The same table gives the same rows from
either format; what is missing (an empty cell, a null, a NaN) is the empty text.
"""

import csv
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LABEL_COLUMNS = ("path", "label")
EXTRA_COLUMNS = ("split", "group")
INSTALL_PARQUET = 'pip install "alexnet-lab[parquet]"'


@dataclass(frozen=True)
class Table:
    """The known columns of a table, row by row."""

    columns: tuple[str, ...]
    rows: list[dict[str, str]]
    first: int  # the number that a user would give the first row
    counted: str  # what is counted: lines of a text, rows of a table


def read_table(path: Path) -> Table:
    """Read the table in the format that its suffix names."""
    return FORMATS[path.suffix.lower()](path)


def _read_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        places = _known_columns(path, list(reader.fieldnames or ()), "in its first line")
        rows = [{name: (row[found] or "").strip() for name, found in places.items()} for row in reader]
    if not rows:
        raise ValueError(f"{path} names no image; each line after the first must be path,label")
    return Table(tuple(places), rows, 2, "line")


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"reading {path} needs pyarrow, which is not installed: {INSTALL_PARQUET}, or save the table as CSV"
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            places = _known_columns(path, file.schema_arrow.names, "")
            columns = file.read(list(places.values()))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no readable Parquet ({error}); was it written to its end?") from None
    texts = {name: _as_texts(path, name, columns[found].to_pylist()) for name, found in places.items()}
    rows = [dict(zip(texts, values, strict=True)) for values in zip(*texts.values(), strict=True)]
    if not rows:
        raise ValueError(f"{path} names no image; it has columns and no rows")
    return Table(tuple(places), rows, 1, "row")


def _known_columns(path: Path, names: list[str], where: str) -> dict[str, str]:
    """Return under what name each known column stands in the file."""
    plain = [name.strip().lower() for name in names]
    missing = [name for name in LABEL_COLUMNS if name not in plain]
    if missing:
        raise ValueError(
            f"{path} must have the columns path,label[,split,group]{' ' + where if where else ''}; "
            f"{', '.join(missing)} is missing, it has: {', '.join(plain) or 'nothing'}"
        )
    known = [name for name in (*LABEL_COLUMNS, *EXTRA_COLUMNS) if name in plain]
    twice = [name for name in known if Counter(plain)[name] > 1]
    if twice:
        raise ValueError(f"{path} has more than one column called {', '.join(twice)}; rename all but one")
    return {name: names[plain.index(name)] for name in known}


def _as_texts(path: Path, column: str, values: list[Any]) -> list[str]:
    """Write values as a CSV would have them; a whole number that nulls made a float is a whole number again."""
    texts = []
    for number, value in enumerate(values, 1):
        if value is None or (isinstance(value, float) and math.isnan(value)):
            texts.append("")
        elif isinstance(value, str):
            texts.append(value.strip())
        elif isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            texts.append(str(value) if isinstance(value, bool) else str(int(value)))
        else:
            raise ValueError(
                f"in {path}, the column {column} must hold text, whole numbers or categories; row {number} has "
                f"{value!r} ({type(value).__name__}): write it as text"
            )
    return texts


FORMATS: Mapping[str, Callable[[Path], Table]] = {".csv": _read_csv, ".parquet": _read_parquet}
