"""One published file, fetched once: resumed where it broke off, checked, and put in its place whole."""

import http.client
import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from alexnet_lab.data.cache import cache_folder, one_at_a_time, out_of_room_says_where

Progress = Callable[[str, int, int], None]  # what, done, total: in bytes here

BLOCK = 1 << 20
TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class Published:
    """A file as its authors publish it. MD5 is what they give: it tells damage, and is no defence against malice."""

    address: str
    md5: str

    @property
    def name(self) -> str:
        """Return the name it is kept under."""
        return self.address.partition("?")[0].rpartition("/")[2]

    @property
    def place(self) -> Path:
        """Return where it is kept."""
        return cache_folder() / "downloads" / self.md5[:8] / self.name


def fetched(file: Published, progress: Progress) -> Path:
    """Return the file's place, fetched first where it is not there yet."""
    place = file.place
    if place.exists():
        return place
    with out_of_room_says_where(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(place.with_name(f"{place.name}.lock")):
            if not place.exists():
                part = place.with_name(f"{place.name}.part")
                _fetch(file, part, progress)
                found = md5_of(part)
                if found != file.md5:
                    part.unlink()
                    raise ValueError(
                        f"{file.address} has MD5 {found}, its authors give {file.md5}; it was thrown away. Try again, "
                        "and if it stays so, the file has changed at its source"
                    )
                part.replace(place)
    return place


def md5_of(path: Path) -> str:
    """Return a file's MD5."""
    digest = md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _fetch(file: Published, part: Path, progress: Progress) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with urlopen(Request(file.address, headers=headers), timeout=TIMEOUT) as answer:  # noqa: S310  # our own addresses
            if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
                have = 0  # the server knows no ranges, and sends all of it again
            total = have + int(answer.headers.get("Content-Length") or 0)
            with part.open("ab" if have else "wb") as target:
                while block := answer.read(BLOCK):
                    target.write(block)
                    have += len(block)
                    progress(f"downloading {file.name}", have, max(total, have))
                target.flush()
                os.fsync(target.fileno())
            if have < total:
                raise http.client.IncompleteRead(b"", total - have)
    except HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # all of it is here already: the checksum decides
        raise _unreachable(file, f"{error.code} {error.reason}") from None
    except URLError as error:
        raise _unreachable(file, str(error.reason)) from None
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _unreachable(file, f"broke off after {have} bytes ({error}); the next try goes on there") from None


def _unreachable(file: Published, why: str) -> ConnectionError:
    return ConnectionError(
        f"cannot download {file.address}: {why}. Fetch it where there is a network and put it at {file.place}, or give "
        "the path of a copy after a colon, as in cifar10:PATH"
    )
