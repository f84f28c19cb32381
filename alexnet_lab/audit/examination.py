"""The audit of a dataset: everything that can be found before a network is trained on it."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.audit.copies import SMALLEST_SIDE, Pair, clusters, copied, find_pairs
from alexnet_lab.audit.patients import Groups, examine_groups
from alexnet_lab.audit.shortcuts import Columns, Flags, Shortcut, encoded, judge
from alexnet_lab.audit.survey import Progress, Survey, survey_files, survey_images
from alexnet_lab.data.findings import names_column, positives, text_of
from alexnet_lab.data.lists import in_brief
from alexnet_lab.data.sources import listing_of, load_images
from alexnet_lab.data.splits import PARTS, split_images

BORDER = 3  # of 32: the width of the border that is looked at alone
MOST_LISTED = 1000  # in audit.json
MOST_OF_ONE = 20  # images of one patient that are listed
PATIENT_COLUMNS = ("patient", "patient_id", "patientid")
BLOCK = 1024  # images
MOST_NAMED = 4  # findings in one problem
FILE_FACTS, BORDER_ALONE = "file facts", "the picture's border"


@dataclass(frozen=True)
class Examination:
    """What an audit found."""

    survey: Survey = field(repr=False)
    parts: NDArray[np.str_] = field(repr=False)  # N: the part of each image in the split that `train` makes; or ""
    is_official: bool  # the dataset gives its own parts
    pairs: tuple[Pair, ...]
    across: tuple[tuple[int, int], ...]  # copies in two parts
    contradictory: tuple[tuple[int, int], ...]  # copies under two classes
    groups: Groups | None
    shortcuts: tuple[Shortcut, ...]
    notes: tuple[str, ...]

    @property
    def copies(self) -> list[Pair]:
        """Return the pairs that show one picture."""
        return [pair for pair in self.pairs if pair.is_copy]

    @property
    def alike(self) -> list[Pair]:
        """Return the pairs that a person should look at."""
        return [pair for pair in self.pairs if not pair.is_copy]

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Return what must be fixed before a result can be believed: what it is, and what to do about it."""
        problems = []
        if self.across:
            count = len({index for pair in self.across for index in pair})
            problems.append(
                (
                    f"{_many(count, 'image')} with copies in another part of the split",
                    "A network is tested on what it was trained on. Remove them, or train with --drop-duplicates, "
                    "which finds those that are not mirrored, turned or cropped.",
                )
            )
        if self.contradictory:
            count = len({index for pair in self.contradictory for index in pair})
            problems.append(
                (
                    f"{_many(count, 'image')} with copies "
                    + ("that have other findings" if self.survey.has_findings else "under another class"),
                    "No network can be right about all of them. Correct the labels, or remove them.",
                )
            )
        if self.groups and self.groups.on_two_sides:
            problems.append(
                (
                    f"{_many(len(self.groups.on_two_sides), 'patient')} in two parts of the split",
                    "A network is tested on patients that it was trained on. Train with --group patient.",
                )
            )
        accused = [shortcut for shortcut in self.shortcuts if shortcut.is_accused]
        for source in dict.fromkeys(shortcut.source for shortcut in accused):
            told = [shortcut for shortcut in accused if shortcut.source == source]
            what = in_brief([one.finding for one in told], MOST_NAMED) if self.survey.has_findings else "The class"
            problems.append((f"{what} can be told from {source} alone", f"{_areas(told)} A network may learn that "
                             "instead of the disease."))  # fmt: skip
        return problems

    def facts(self) -> dict[str, Any]:
        """Return everything for JSON; images are known by their paths."""
        survey, name = self.survey, self.survey.name_of
        return {
            "data": survey.name,
            "images": len(survey.labels),
            "problems": [": ".join(problem) for problem in self.problems],
            "notes": list(self.notes),
            "findings" if survey.has_findings else "classes": self.balance(),
            "kinds_of_file": dict(self.kinds()),
            "unreadable": {name(index): why for index, why in list(survey.unreadable.items())[:MOST_LISTED]},
            "pairs": [
                {
                    "images": [name(pair.one), name(pair.other)],
                    "kind": pair.kind,
                    "correlation": pair.correlation,
                    "change": pair.change,
                    "parts": [str(self.parts[pair.one]), str(self.parts[pair.other])],
                    "classes": [self.class_of(pair.one), self.class_of(pair.other)],
                }
                for pair in self.pairs[:MOST_LISTED]
            ],
            "copies_in_two_parts": [[name(one), name(other)] for one, other in self.across[:MOST_LISTED]],
            "copies_of_two_classes": [[name(one), name(other)] for one, other in self.contradictory[:MOST_LISTED]],
            "patients": {**asdict(self.groups), "images": self._images_of_patients()} if self.groups else None,
            "shortcuts": [{**asdict(one), "accused": one.is_accused} for one in self.shortcuts],
        }

    def images_of(self, patient: str) -> list[str]:
        """Return the first images of a patient, each with its part and class: a table's own column is not written."""
        assert self.survey.groups is not None  # noqa: S101  # for the type checker: patients are known
        return [self.caption(index) for index in np.flatnonzero(self.survey.groups == patient)[:MOST_OF_ONE].tolist()]

    def _images_of_patients(self) -> dict[str, list[str]]:
        patients = dict.fromkeys((*self.groups.on_two_sides, *self.groups.of_two_classes)) if self.groups else {}
        return {patient: self.images_of(patient) for patient in list(patients)[:MOST_LISTED]}

    def caption(self, index: int) -> str:
        """Return an image's file, part and class."""
        part = str(self.parts[index])
        return f"{self.survey.name_of(index)} ({part + ', ' if part else ''}{self.class_of(index)})"

    def class_of(self, index: int) -> str:
        """Return the class of an image, or its findings."""
        label = self.survey.labels[index]
        return text_of(label, self.survey.classes) if label.ndim else self.survey.classes[int(label)]

    def balance(self) -> dict[str, dict[str, int]]:
        """Return the number of images of each class, in all and in each part; of findings also how many lack it."""
        survey = self.survey
        positive = positives(survey.labels, len(survey.classes))
        columns = {"all": positive, **{part: positive[self.parts == part] for part in PARTS if part in self.parts}}
        if survey.has_findings:
            columns = {
                f"{part}, {word}": has
                for part, values in columns.items()
                for word, has in (("with", values), ("without", ~values))
            }
        counts = {part: values.sum(0).tolist() for part, values in columns.items()}
        return {name: {part: each[at] for part, each in counts.items()} for at, name in enumerate(survey.classes)}

    def kinds(self) -> list[tuple[str, dict[str, int]]]:
        """Return the kinds of file, the most frequent first, and how many images of each class are of it."""
        members: dict[str, list[int]] = {}
        for index, seen in enumerate(self.survey.facts):
            if seen is not None:
                tint = ", tinted" if seen.tint >= 1 else ""
                kind = f"{seen.width} x {seen.height} {seen.format}, mode {seen.mode}, {seen.bits} bits{tint}"
                members.setdefault(kind, []).append(index)
        positive, names = positives(self.survey.labels, len(self.survey.classes)), self.survey.classes
        ordered = sorted(members.items(), key=lambda item: -len(item[1]))
        return [(kind, dict(zip(names, positive[of].sum(0).tolist(), strict=True))) for kind, of in ordered]


def examine(
    data: str,
    *,
    group: str = "",
    patient_from: str = "",
    findings: str = "",
    split_seed: int = 0,
    fold: str = "",
    progress: Progress = lambda _what, _done, _total: None,
) -> Examination:
    """Audit a data source: copies, patients, shortcuts, class balance; raise ValueError for one that cannot be read.

    `findings` are several labels an image, as in a recipe (findings.py).
    """
    listing = listing_of(data, group, patient_from, findings)
    with _reading(listing) as opened:
        survey = (
            survey_images(load_images(data, progress=progress), progress)
            if listing is None
            else survey_files(listing, progress)
        )
        if len(survey.unreadable) == len(survey.labels):
            raise ValueError(
                f"none of the {len(survey.labels)} images of {data} can be read; the first: {survey.name_of(0)}: "
                f"{survey.unreadable[0]}"
            )
        pairs = find_pairs(survey, progress, opened)
    notes = list(survey.notes)
    if survey.stored_side < SMALLEST_SIDE:
        notes.append(
            f"some images have fewer than {SMALLEST_SIDE} pixels a side: only equal bytes were looked for, not copies "
            "of a picture"
        )
    parts, remarks = _parts(survey, split_seed, fold)
    readable = survey.readable
    groups = None
    if survey.groups is not None:
        groups = examine_groups(survey.groups, survey.labels, survey.classes, parts, readable)
        if groups.single_classes:
            remarks.append(
                f"all images of {', '.join(groups.single_classes)} are of one patient: class and patient cannot be "
                "told apart"
            )
        if groups.of_two_classes:
            remarks.append(f"{_many(len(groups.of_two_classes), 'patient')} have images of more than one class")
    return Examination(
        survey,
        parts,
        survey.parts is not None,
        tuple(pairs),
        tuple(copied(pairs, parts, readable[parts[readable] != ""])),
        tuple(copied(pairs, survey.label_numbers, readable)),
        groups,
        tuple(_shortcuts(survey, pairs, (*PATIENT_COLUMNS, _plain(group)), findings, progress)),
        (*notes, *remarks),
    )


@contextmanager
def _reading(listing: Any) -> Iterator[Callable[[str], AbstractContextManager[bytes]] | None]:
    if listing is None:
        yield None
    else:
        with listing.reader() as read:
            yield read


def _parts(survey: Survey, split_seed: int, fold: str) -> tuple[NDArray[np.str_], list[str]]:
    """Return the part of each image in the split that training would make, and remarks; "" for images in none."""
    parts = np.full(len(survey.labels), "", dtype="<U10")
    if survey.parts is not None and not fold:
        parts[survey.readable] = survey.parts[survey.readable]
        return parts, []
    try:
        split = split_images(
            survey.labels, survey.classes, survey.parts, survey.grouping, survey.readable, split_seed, fold
        )
    except ValueError as error:
        return parts, [f"no split can be made: {error}"]
    for part in PARTS:
        parts[getattr(split, part)] = part
    return parts, []


def _shortcuts(
    survey: Survey, pairs: Sequence[Pair], of_patients: Collection[str], findings: str, progress: Progress
) -> list[Shortcut]:
    readable = survey.readable
    sources: dict[str, Columns | Flags | None] = {FILE_FACTS: _of_files(survey, readable)}
    for name, values in survey.columns.items():
        is_label = names_column(findings, name) or _plain(name) == "label"
        if not is_label and _plain(name) not in of_patients:
            sources[f"column {name}"] = encoded([values[index] for index in readable])
    sources[BORDER_ALONE] = _of_border(survey.thumbs, readable)
    kept: Mapping[str, Columns | Flags] = {name: columns for name, columns in sources.items() if columns is not None}
    if not kept or len(survey.classes) < 2:
        return []
    together = _together(survey, pairs)[readable]
    return judge(
        kept,
        survey.labels[readable],
        together,
        tell=lambda done, all_: progress("looking for shortcuts", done, all_),
        findings=survey.classes,
    )


def _of_files(survey: Survey, indices: NDArray[np.int64]) -> Flags | None:
    seen = [facts for index in indices if survey.facts and (facts := survey.facts[index]) is not None]
    if not seen:
        return None
    columns = [
        encoded(np.array([one.width for one in seen], float)),
        encoded(np.array([one.height for one in seen], float)),
        encoded(np.array([one.width / one.height for one in seen])),
        encoded([one.mode for one in seen]),
        encoded([one.format for one in seen]),
        encoded([str(one.bits) for one in seen]),
        encoded(["tinted" if one.tint >= 1 else "grey" if one.tint == 0 else "faint" for one in seen]),
    ]
    kept = [column for column in columns if column is not None]
    return np.column_stack(kept) if kept else None


def _of_border(thumbs: NDArray[np.uint8], indices: NDArray[np.int64]) -> Columns | None:
    """Return the outer ring of each picture as standardised grey levels, N 64."""
    blocks = [_ring(thumbs[indices[start : start + BLOCK]]) for start in range(0, len(indices), BLOCK)]
    ring = np.concatenate(blocks)
    spread = ring.std(0)
    ring = (ring - ring.mean(0))[:, spread > 0] / spread[spread > 0]
    return ring if ring.shape[1] else None


def _ring(thumbs: NDArray[np.uint8]) -> Columns:
    count, side = thumbs.shape[:2]
    small = thumbs.reshape(count, 32, side // 32, 32, side // 32).mean((2, 4))
    sides = [
        small[:, :BORDER].mean(1),
        small[:, -BORDER:].mean(1),
        small[..., :BORDER].mean(2),
        small[..., -BORDER:].mean(2),
    ]
    ring: Columns = np.concatenate(sides, 1).reshape(count, -1, 2).mean(2)
    return ring


def _together(survey: Survey, pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """Return a number for each image, the same for copies of one picture and for images of one patient."""
    joined = list(pairs)
    if survey.groups is not None:
        _, first, group = np.unique(survey.groups, return_index=True, return_inverse=True)
        joined += [Pair(int(first[number]), index, "") for index, number in enumerate(group) if first[number] != index]
    return clusters(joined, len(survey.labels))


def _plain(name: str) -> str:
    """Return the name of a column without what spelling adds: `Patient ID` is `patient_id`."""
    return name.strip().lower().replace(" ", "_")


def _areas(told: Sequence[Shortcut]) -> str:
    """Say how well one source tells the class, or the findings: of several, the best told."""
    best = max(told, key=lambda one: one.auroc)
    of = f" of {best.finding}" if len(told) > 1 else ""
    return (
        f"AUROC{of} {best.auroc:.2f} (95% interval {best.low:.2f} to {best.high:.2f}; chance stays below "
        f"{best.chance:.2f})."
    )


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
