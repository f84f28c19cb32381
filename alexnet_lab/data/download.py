"""Download a published file once: resumed where it broke off, checked, and renamed when complete."""

import hashlib
import http.client
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from alexnet_lab.data.cache import cache_folder, full_disk_names_folder, one_at_a_time

Progress = Callable[[str, int, int], None]  # what, done, total: in bytes here

BLOCK = 1 << 20
TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class Published:
    """A file as its authors publish it. They give an MD5, which detects damage but does not protect against malice."""

    address: str
    md5: str

    @property
    def name(self) -> str:
        """Return its file name in the cache."""
        return self.address.partition("?")[0].rpartition("/")[2]

    @property
    def place(self) -> Path:
        """Return its path in the cache."""
        return cache_folder() / "downloads" / self.md5[:8] / self.name


def fetched(file: Published, progress: Progress) -> Path:
    """Return the file's path in the cache; download it first if it is not in it."""
    place = file.place
    if place.exists():
        return place
    with full_disk_names_folder(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(place.with_name(f"{place.name}.lock")):
            if not place.exists():
                part = place.with_name(f"{place.name}.part")
                _fetch(file, part, progress)
                md5 = md5_of(part)
                if md5 != file.md5:
                    part.unlink()
                    raise ValueError(
                        f"{file.address} has the MD5 {md5}, and its authors give {file.md5}; it was deleted. Try "
                        "again; if the MD5 stays the same, the file has changed at its source"
                    )
                part.replace(place)
    return place


def md5_of(path: Path) -> str:
    """Return a file's MD5."""
    digest = hashlib.md5(usedforsecurity=False)
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
                have = 0  # the server does not support ranges and sends all of it
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
            return  # all of it was downloaded before; the checksum is compared next
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
