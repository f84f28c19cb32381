"""Tables of paths and labels, as text: the rows of a CSV or of a Parquet file.

    path        the image, relative to the table
    label       its class: text, whole numbers or categories; not needed where findings are asked for (findings.py)
    split       optional: train, validation or test, or another name of them (listings.py)
    group       optional: the patient, the slide

The case of column names does not matter; `Image Index`, as NIH calls it, is a path. Other columns are read only where
they are asked for. The same table gives the same rows in either format; a missing value (an empty cell, a null, a NaN)
is the empty text. A CSV is UTF-8.
"""

import csv
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_lab.data.lists import in_brief
from alexnet_lab.data.reading import check_regular

LABEL_COLUMNS = ("path", "label")
ALSO_CALLED = {"image index": "path"}
EXTRA_COLUMNS = ("split", "group")
MOST_TABLE_BYTES = 2**28  # of the file: two million lines of 128 characters
MOST_ROWS = 10_000_000
INSTALL_PARQUET = 'pip install "alexnet-lab[parquet]"'


@dataclass(frozen=True)
class Table:
    """The known columns of a table, row by row."""

    columns: tuple[str, ...]
    rows: list[dict[str, str]]
    first: int  # the number of the first row, as a user would count
    counted: str  # what is counted: lines of a text, rows of a table
    others: Mapping[str, list[str]] = field(default_factory=dict)  # further columns by their names in the file


def read_table(path: Path, *, every: bool = False, labelled: bool = True) -> Table:
    """Read the table in the format that its suffix names; raise a ValueError that names the file and what to do.

    every: further columns too. labelled: a column `label` is needed; else it is a further one.
    """
    check_regular(path, MOST_TABLE_BYTES)
    return FORMATS[path.suffix.lower()](path, every, labelled)


def _read_csv(path: Path, every: bool, labelled: bool) -> Table:
    line = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = _known_columns(path, list(reader.fieldnames or ()), "in its first line", labelled)
            others: dict[str, list[str]] = _others(reader.fieldnames, columns) if every else {}
            rows = []
            for line, row in enumerate(reader, 2):
                rows.append({name: (row[column] or "").strip() for name, column in columns.items()})
                for name, values in others.items():
                    values.append((row[name] or "").strip())
                if any("\0" in value for value in rows[-1].values()):
                    raise ValueError(
                        f"{path} has a NUL character in line {line}; is it a CSV? Save it as one, in UTF-8"
                    )
                _check_count(path, len(rows))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 (byte {error.object[error.start]:#04x}); save it as UTF-8, in a spreadsheet as "
            "`CSV UTF-8`"
        ) from None
    except csv.Error as error:
        raise ValueError(
            f"{path} is no CSV that can be read, after line {max(line, 1)} ({error}); is a quotation mark left open?"
        ) from None
    if not rows:
        raise ValueError(f"{path} names no image; each line after the first must be path,label")
    return Table(tuple(columns), rows, 2, "line", others)


def _others(names: Iterable[str] | None, columns: Mapping[str, str]) -> dict[str, list[str]]:
    return {name: [] for name in names or () if name and name not in columns.values()}


def _check_count(path: Path, count: int) -> None:
    if count > MOST_ROWS:
        raise ValueError(f"{path} has more than {MOST_ROWS:,} rows, and no more are read; split it up")


def _read_parquet(path: Path, every: bool, labelled: bool) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"reading {path} needs pyarrow, which is not installed: {INSTALL_PARQUET}, or save the table as CSV"
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = _known_columns(path, file.schema_arrow.names, "", labelled)
            _check_count(path, file.metadata.num_rows)
            others = _others(file.schema_arrow.names, names) if every else {}
            read = file.read([*names.values(), *others])
            columns = {name: read[name].to_pylist() for name in (*names.values(), *others)}
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no readable Parquet ({error}); was it written to its end?") from None
    texts = {name: _as_texts(path, name, columns[column]) for name, column in names.items()}
    rows = [dict(zip(texts, values, strict=True)) for values in zip(*texts.values(), strict=True)]
    if not rows:
        raise ValueError(f"{path} names no image; it has columns and no rows")
    for name in others:
        others[name] = ["" if value is None else str(value) for value in columns[name]]
    return Table(tuple(names), rows, 1, "row", others)


def _known_columns(path: Path, names: list[str], where: str, labelled: bool) -> dict[str, str]:
    """Return the name that each known column has in the file."""
    plain = [name.strip().lower() for name in names]
    if "path" not in plain:
        plain = [ALSO_CALLED.get(name, name) for name in plain]
    needed = LABEL_COLUMNS if labelled else LABEL_COLUMNS[:1]
    missing = [name for name in needed if name not in plain]
    if missing:
        raise ValueError(
            f"{path} must have the columns {','.join(needed)}[,split,group]{' ' + where if where else ''}; "
            f"{', '.join(missing)} is missing, it has: {in_brief(plain) or 'nothing'}"
        )
    present = [name for name in (*needed, *EXTRA_COLUMNS) if name in plain]
    twice = [name for name in present if Counter(plain)[name] > 1]
    if twice:
        raise ValueError(f"{path} has more than one column called {', '.join(twice)}; rename all but one")
    return {name: names[plain.index(name)] for name in present}


def _as_texts(path: Path, column: str, values: list[Any]) -> list[str]:
    """Return values as in a CSV; a whole number that became a float, for nulls in its column, is a whole number."""
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
                f"{repr(value)[:100]} ({type(value).__name__}): write it as text"
            )
    return texts


FORMATS: Mapping[str, Callable[[Path, bool, bool], Table]] = {".csv": _read_csv, ".parquet": _read_parquet}
