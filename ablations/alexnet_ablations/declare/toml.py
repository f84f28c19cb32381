"""TOML files: read so that whatever is wrong with one is a sentence that names it, and values as TOML writes them."""

import json
import tomllib
from pathlib import Path
from typing import Any

MOST_DIGITS = 300  # of a whole number
MOST_BYTES = 2**20  # a study file with ten thousand levels has a quarter of this


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds; ValueError says what is wrong with it, OSError that it cannot be read."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is a device or a pipe, and must be a TOML file; name another")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES / 2**20:.0f} MiB, and must be a TOML file; name another")
    # A coordinator writes study.toml anew where it is missing, so a damaged one costs nothing.
    remedy = "or name another"
    if path.name == "study.toml":
        remedy = "or delete it, and the command that began this study writes it again"
    if path.name == "study.toml" and not content.strip(b"\0 \r\n\t"):
        raise ValueError(f"{path} is empty; delete it, and the command that began this study writes it again")
    try:
        values = tomllib.loads(content.decode("utf-8-sig").replace("\r\n", "\n"))
        _refuse_large(values)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8, as TOML must be; save it as UTF-8, {remedy}") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply to be read as TOML; correct it, {remedy}") from None
    except ValueError as error:  # also of a whole number with thousands of digits
        raise ValueError(f"{path} is not TOML ({error}); correct it, {remedy}") from None
    return values


def _refuse_large(value: Any) -> None:
    """Refuse a whole number that no floating-point number can hold: TOML has none, and Python's parser takes it."""
    if isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
        raise ValueError(f"a whole number has more than {MOST_DIGITS} digits")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_large(item)


def toml_value(value: Any) -> str:
    """Write a value: text, a number, true or false, or a list of them."""
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # else a JSON value is one of TOML
    if not text.isascii() and text.encode(errors="replace").decode() != text:
        raise ValueError(f"{value!r} has bytes that are no text in UTF-8, which a study file must be; rename it")
    return text
