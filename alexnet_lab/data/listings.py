"""Image files and their labels, before any is decoded: from a folder, a .zip, or a table of paths and labels.

    faces/cat/1.png  faces/dog/2.jpg             a folder of class folders, or the same in a .zip
    faces/train/cat/1.png  faces/test/dog/2.jpg  with parts: train, training, val, valid, validation, dev, test, testing
    faces.csv  faces.parquet                     path,label[,split,group]; paths are relative to the table

An archive is read in place. Nothing is written under a name from one, so no name in it can point outside a folder.
"""

import errno
import hashlib
import os
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.data.decoding import MOST_BYTES, SUFFIXES
from alexnet_lab.data.dicom import SUFFIXES as DICOM_SUFFIXES
from alexnet_lab.data.findings import read_findings
from alexnet_lab.data.lists import in_brief, line_by_line
from alexnet_lab.data.reading import Budget, check_member, is_of_content, read_regular, read_whole
from alexnet_lab.data.tables import read_table

MOST_VISITS = 8  # of one folder, through links; a link to a folder above itself would be followed without end
IN_MEMORY = Budget(MOST_BYTES)  # bytes of image files that are held at the same time

PART_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Listing:
    """Image files, in a fixed order, with their labels."""

    root: Path  # the folder or the .zip
    paths: tuple[str, ...]  # below root
    labels: NDArray[np.int64]  # N; N K where images have findings
    classes: tuple[str, ...]
    state: str  # changes when a file does: from sizes and times of change, or from the checksums in a .zip
    parts: NDArray[np.str_] | None = None
    groups: NDArray[np.str_] | None = None  # as the table or the paths call them: never written (pseudonyms.py)
    notes: tuple[str, ...] = ()
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)  # further columns of a table

    @contextmanager
    def reader(self) -> Iterator[Callable[[str], AbstractContextManager[bytes]]]:
        """Give a function that opens a path as the file's bytes, for the duration of a block, in any thread.

        It raises one of UNREADABLE for a path that is no regular file or larger than MOST_BYTES.
        """
        with open_reader(self.root) as read:
            yield read


@contextmanager
def open_reader(root: Path) -> Iterator[Callable[[str], AbstractContextManager[bytes]]]:
    """Give a function that opens a path below a folder or in a .zip, as `Listing.reader` does."""
    if root.is_dir():
        yield lambda path: read_file(root / path)
    else:
        with zipfile.ZipFile(root) as archive:
            yield lambda path: _read_member(archive, path)


@contextmanager
def read_file(place: Path) -> Iterator[bytes]:
    """Open a regular file of at most MOST_BYTES as its bytes."""
    with IN_MEMORY.hold(min(place.stat().st_size, MOST_BYTES)):
        yield read_regular(place, MOST_BYTES)


@contextmanager
def _read_member(archive: zipfile.ZipFile, path: str) -> Iterator[bytes]:
    member = archive.getinfo(path)
    if member.file_size > MOST_BYTES:
        raise ValueError(f"it has {member.file_size:,} bytes; at most {MOST_BYTES:,} are read")
    # zipfile returns no more than the size that the archive states, and compares the content with the checksum.
    with IN_MEMORY.hold(member.file_size), archive.open(member) as file:
        yield read_whole(file, MOST_BYTES)


def list_folder(root: Path) -> Listing:
    """List a folder of class folders; its state is every file's size and time of change, so no file is read."""
    entries, folders = _walked(root)
    return _listed(root, entries, folders, state=str(root.resolve()))


def image_paths(root: Path) -> tuple[str, ...]:
    """Return the paths of all image files below a folder or in a .zip, in any folder, in order; refuse to find none."""
    entries = _walked(root)[0] if root.is_dir() else [m.filename for m in _members_of(root) if not _is_folder(m)]
    paths = _images_among(path for path in entries if not _is_clutter(path))
    if not paths:
        raise ValueError(f"{root} holds no images; expected files such as .png, .jpg or .tif")
    return tuple(paths)


def _images_among(paths: Iterable[str]) -> list[str]:
    return sorted(path for path in paths if PurePosixPath(path).suffix.lower() in SUFFIXES)


def _walked(root: Path) -> tuple[dict[str, str], set[str]]:
    """Return the state of every file below a folder, by its path, and the folders."""
    entries: dict[str, str] = {}
    folders: set[str] = set()
    visits: Counter[tuple[int, int]] = Counter()
    for folder, below, names in os.walk(root, followlinks=True, onerror=_raise):
        below.sort()
        status = Path(folder).stat()
        visits[status.st_dev, status.st_ino] += 1
        if visits[status.st_dev, status.st_ino] > MOST_VISITS:
            raise ValueError(
                f"in {root}, links lead to the folder {Path(folder).resolve()} again and again, the last time by "
                f"{folder}; remove links to a folder that contains them"
            )
        base = Path(folder).relative_to(root).as_posix()
        if base != ".":
            folders.add(base)
        for name in names:
            entries[name if base == "." else f"{base}/{name}"] = _state_of(Path(folder) / name)
    return entries, folders


def _raise(error: OSError) -> None:
    """Refuse a folder that cannot be listed: os.walk would leave it out in silence."""
    raise error


def list_archive(root: Path) -> Listing:
    """List a .zip of class folders; its state is the sizes and checksums in its directory."""
    members = _members_of(root)
    entries = {m.filename: f"{m.file_size},{m.CRC:08x}" for m in members if not _is_folder(m)}
    folders = {m.filename.rstrip("/") for m in members if _is_folder(m)}
    return _listed(root, entries, folders, state="")


def _members_of(root: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(root) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError) as error:
        if isinstance(error, OSError) and not is_of_content(error):
            raise
        raise ValueError(f"{root} is no readable .zip ({error}); was the download cut short?") from None
    for member in members:
        try:
            check_member(member)
        except ValueError as error:
            raise ValueError(f"{root} cannot be read: {error}") from None
    return members


def _is_folder(member: zipfile.ZipInfo) -> bool:
    """Return whether a member of a .zip is a folder; zipfile's own answer fails for a name without a letter."""
    return member.filename.endswith("/")


def list_table(path: Path, findings: str = "") -> Listing:
    """List the images that a table names, with all its columns (tables.py); `findings` as findings.py reads them."""
    table = read_table(path, every=True, labelled=not findings)
    rows, counted = table.rows, table.counted
    problems = [
        f"{counted} {number}: {problem}"
        for number, row in enumerate(rows, table.first)
        if (problem := _problem_of(row, path.parent))
    ]
    if problems:
        raise ValueError(line_by_line(f"{path} has {len(problems)} {counted}s that cannot be used", problems))
    paths = tuple(row["path"] for row in rows)
    twice = [name for name, times in Counter(paths).items() if times > 1]
    if twice:
        raise ValueError(line_by_line(f"{path} names {len(twice)} images twice; keep one {counted} of each", twice))
    if findings:
        labels, classes = read_findings(table.others, findings, str(path), table.first, counted)
    else:
        classes = _in_natural_order({row["label"] for row in rows})
        number_of = {name: number for number, name in enumerate(classes)}
        labels = np.array([number_of[row["label"]] for row in rows], np.int64)
    states = [_state_of(path.parent / name) for name in paths]
    digest = _digest([str(path.resolve()), *states, *(repr(sorted(row.items())) for row in rows)])
    if findings:
        digest = _digest([digest, *classes, labels.tobytes().hex()])
    return Listing(
        path.parent,
        paths,
        labels,
        classes,
        digest,
        np.array([PART_NAMES[row["split"].lower()] for row in rows]) if "split" in table.columns else None,
        np.array([row["group"] for row in rows]) if "group" in table.columns else None,
        columns=table.others,
    )


def with_patients(listing: Listing, group: str, patient_from: str) -> Listing:
    """Return a listing whose groups are the patients that a column of its table or a pattern in its paths names.

    `group` is a column, or `patient` for what is known: the pattern, a column of that name, or the groups there are.
    """
    if not group and not patient_from:
        return listing
    state = _digest([listing.state, group, patient_from])
    if patient_from and group in ("", "patient"):
        groups, notes = _matched(listing.paths, patient_from)
        return replace(listing, groups=groups, state=state, notes=(*listing.notes, *notes))
    columns = {name.strip().lower().replace(" ", "_"): name for name in listing.columns}
    wanted = (
        ("patient", "patient_id", "patientid") if group == "patient" else (group.strip().lower().replace(" ", "_"),)
    )
    named = next((columns[name] for name in wanted if name in columns), None)
    if named is not None:
        values = list(listing.columns[named])
        empty = [path for path, value in zip(listing.paths, values, strict=True) if not value]
        if empty:
            raise ValueError(
                f"the column {named} must name a patient for each image; it is empty for {in_brief(empty)}"
            )
        return replace(listing, groups=np.array(values), state=state)
    if group in ("patient", "group") and listing.groups is not None:
        return listing
    if group == "patient" and any(PurePosixPath(path).suffix.lower() in DICOM_SUFFIXES for path in listing.paths):
        return listing  # the files themselves say it
    known = in_brief([*listing.columns]) or "none"
    raise ValueError(
        f"group {group} is not known for {listing.root}: name a column of its table (it has: {known}), or find "
        r"patients in the paths with patient_from, for example person(\d+)"
    )


def _matched(paths: Sequence[str], pattern: str) -> tuple[NDArray[np.str_], list[str]]:
    """Return what a pattern finds in each path, and notes; a path without a match is a patient of its own."""
    try:
        finder = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            rf"patient_from: must be a regular expression such as person(\d+) ({error}), got {pattern!r}"
        ) from None
    matches = [finder.search(path) for path in paths]
    others = sum(match is None for match in matches)
    if others == len(paths):
        raise ValueError(
            f"patient_from: {pattern!r} is found in none of the {len(paths)} paths, such as {in_brief(paths[:1])}; "
            r"write a pattern that is in the paths, such as person(\d+)"
        )
    groups = [
        path if match is None else (match.group(1) if finder.groups else match.group()) or path
        for path, match in zip(paths, matches, strict=True)
    ]
    notes = [f"{others} of {len(paths)} paths do not match {pattern!r}: each counts as a patient of its own"]
    return np.array(groups), notes if others else []


def _problem_of(row: dict[str, str], folder: Path) -> str:
    if not row["path"]:
        return "no path"
    if "label" in row and not row["label"]:
        return f"no label for {row['path']}"
    if not _is_file(folder / row["path"]):
        return f"no file at {folder / row['path']}"
    if "split" in row and row["split"].lower() not in PART_NAMES:
        return f"split must be one of {', '.join(PART_NAMES)}, got {row['split']!r}"
    if "group" in row and not row["group"]:
        return f"no group for {row['path']}"
    return ""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def _listed(root: Path, entries: Mapping[str, str], folders: set[str], state: str) -> Listing:
    """Tell from the paths which folder is a part and which is a class."""
    seen = {path: file_state for path, file_state in entries.items() if not _is_clutter(path)}
    images = _images_among(seen)
    others = Counter(PurePosixPath(path).suffix.lower() or "no suffix" for path in seen.keys() - set(images))
    if not images:
        raise ValueError(f"{root} holds no images; expected class folders with files such as .png, .jpg or .tif")
    depth = _wrappers(images)
    split_up = [PurePosixPath(path).parts[depth:] for path in images]
    with_parts = any(PART_NAMES.get(parts[0].lower()) == "train" and len(parts) > 2 for parts in split_up)
    strangers = sorted({parts[0] for parts in split_up if len(parts) > 1 and not _is_part(parts[0])})
    if with_parts and strangers:
        raise ValueError(
            f"in {root}, next to a folder of training images, these folders are no parts: {in_brief(strangers)}. A "
            f"part is called one of {', '.join(PART_NAMES)}: rename them, or move them elsewhere"
        )
    class_at = 1 if with_parts else 0
    astray = [path for path, parts in zip(images, split_up, strict=True) if len(parts) < class_at + 2]
    if astray:
        raise ValueError(line_by_line(f"in {root}, {len(astray)} images are in no class folder", astray))
    named = [parts[class_at] for parts in split_up]
    classes = _in_natural_order(set(named))
    number_of = {name: number for number, name in enumerate(classes)}
    _check_folders(root, folders, depth, class_at, classes, split_up)
    counted = in_brief([f"{kind} {count}" for kind, count in others.most_common()])
    return Listing(
        root,
        tuple(images),
        np.array([number_of[name] for name in named], np.int64),
        classes,
        _digest([state, *(f"{path}:{seen[path]}" for path in images)]),
        np.array([PART_NAMES[parts[0].lower()] for parts in split_up]) if with_parts else None,
        notes=(f"{others.total()} files that are no images were left out ({counted})",) if others else (),
    )


def _check_folders(
    root: Path,
    folders: set[str],
    depth: int,
    class_at: int,
    classes: Sequence[str],
    split_up: Sequence[tuple[str, ...]],
) -> None:
    below = {parts for path in folders if not _is_clutter(path) and (parts := PurePosixPath(path).parts[depth:])}
    filled = {parts[: class_at + 1] for parts in split_up}
    empty = sorted("/".join(parts) for parts in below if len(parts) == class_at + 1 and parts not in filled)
    if empty:
        raise ValueError(f"in {root}, these class folders hold no images: {in_brief(empty)}; fill or remove them")
    if class_at:
        trained = {parts[1] for parts in split_up if PART_NAMES[parts[0].lower()] == "train"}
        untrained = [name for name in classes if name not in trained]
        if trained and untrained:
            raise ValueError(f"in {root}, these classes have no training images: {in_brief(untrained)}")


def _wrappers(images: Sequence[str]) -> int:
    """Return how many folders merely wrap everything: one name, the same for all, that contains class folders."""
    split_up = [PurePosixPath(path).parts for path in images]
    depth = 0
    while (
        min(map(len, split_up)) > depth + 2
        and len({parts[depth] for parts in split_up}) == 1
        and not _is_part(split_up[0][depth])
    ):
        depth += 1
    return depth


def _is_part(name: str) -> bool:
    return name.lower() in PART_NAMES


def _is_clutter(path: str) -> bool:
    """Return whether a system left this file: hidden files, and resource forks in archives made on a Mac."""
    parts = PurePosixPath(path).parts
    if not parts:  # a member of a .zip may be called `.`, or nothing at all
        return True
    hidden = any(part.startswith(".") and part != ".." for part in parts)
    return hidden or "__MACOSX" in parts or parts[-1] == "Thumbs.db"


def _in_natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort names, numbers by their value: 2 before 10."""
    every = set(names)
    if all(name.isdecimal() for name in every):
        return tuple(sorted(every, key=lambda name: (int(name), name)))
    return tuple(sorted(every))


def _state_of(path: Path) -> str:
    """Return a text that changes when the file or its permissions change; the file is not read."""
    try:
        status = path.stat()
    except OSError as error:  # a link that leads nowhere, or to itself; reading it gives the reason
        return f"no status: {error.errno}"
    return f"{status.st_size},{status.st_mtime_ns},{status.st_ctime_ns}"


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for line in lines:
        digest.update(line.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()
