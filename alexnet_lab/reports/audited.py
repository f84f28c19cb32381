"""The page of an audit: what must be fixed first, then copies side by side, patients, shortcuts, classes and files."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from alexnet_lab.audit.copies import Pair
from alexnet_lab.audit.examination import Examination
from alexnet_lab.audit.shortcuts import LEAST_AUROC, LEVEL, PERMUTATIONS
from alexnet_lab.data.decoding import UNREADABLE, decode
from alexnet_lab.reports.page import Block, Callout, Facts, Page, Paragraph, Section, Table, escape
from alexnet_lab.reports.pictures import source_of, thumbnail

SHOWN_PAIRS = 60
SHOWN_ROWS = 200
MOST_UNFOLDED = 40  # shortcuts
PICTURE_SIDE = 200  # pixels

Open = Callable[[str], AbstractContextManager[bytes]]


@dataclass(frozen=True)
class SideBySide:
    """Two pictures beside each other, each with its file, part and class, and how they are alike."""

    pictures: Sequence[bytes]  # JPEG
    captions: Sequence[str]
    title: str

    def html(self) -> str:
        """Return its markup."""
        cells = "".join(
            f'<div><img alt="{escape(caption)}" src="{source_of(picture)}"><p>{escape(caption)}</p></div>'
            for picture, caption in zip(self.pictures, self.captions, strict=True)
        )
        return f'<div class="pair"><h3>{escape(self.title)}</h3><div class="two">{cells}</div></div>'


@dataclass(frozen=True)
class PairGrid:
    """Pairs of pictures, as many side by side as the page is wide."""

    pairs: Sequence[SideBySide]

    def html(self) -> str:
        """Return its markup."""
        return f'<div class="pairs">{"".join(pair.html() for pair in self.pairs)}</div>'


def audit_page(found: Examination, opened: Open | None = None) -> Page:
    """Return the page of an audit; `opened` opens an image file for a sharper picture than the audit kept."""
    survey = found.survey
    problems = found.problems
    of = f"with {len(survey.classes)} findings" if survey.has_findings else f"of {len(survey.classes)} classes"
    lead = f"{len(survey.labels):,} images {of}. " + (
        f"{len(problems)} to fix before training." if problems else "Nothing was found that must be fixed."
    )
    sections = [
        Section("What must be fixed", _problems(found)),
        Section("Copies", _copies(found, opened)),
        *([Section("Much alike", _alike(found, opened))] if found.alike else []),
        Section("Patients", _patients(found)),
        Section("Shortcuts", _shortcuts(found)),
        Section("Findings and files" if survey.has_findings else "Classes and files", _classes(found)),
        Section("What is not found", _limits()),
    ]
    return Page(f"Audit of {survey.name}", lead, sections)


def _problems(found: Examination) -> list[Block]:
    boxes: list[Block] = [Callout("serious", title, text) for title, text in found.problems]
    boxes += [Callout("note", "Note", f"{note[:1].upper()}{note[1:]}.") for note in found.notes]
    return boxes or [Callout("good", "Nothing", "No copy in two parts, no contradictory label, no shortcut.")]


def _copies(found: Examination, opened: Open | None) -> list[Block]:
    copies = found.copies
    if not copies:
        return [Paragraph("No picture is there twice.")]
    kinds = {kind: sum(pair.kind == kind for pair in copies) for kind in dict.fromkeys(pair.kind for pair in copies)}
    across = {index for pair in found.across for index in pair}
    counted = ", ".join(f"{count:,} with the {kind}" for kind, count in kinds.items())
    split = "its own split" if found.is_official else "the split that training would make"
    text = f"{len(copies):,} pairs: {counted}. {len(across):,} of these images have a copy in another part of {split}."
    return [Paragraph(text), *_pictured(found, copies, opened)]


def _alike(found: Examination, opened: Open | None) -> list[Block]:
    text = (
        "These pictures are nearly the same: two exposures of one patient, perhaps, or a copy that was changed more. "
        "They count for nothing here; look at them."
    )
    return [Paragraph(text), *_pictured(found, found.alike, opened)]


def _pictured(found: Examination, pairs: Sequence[Pair], opened: Open | None) -> list[Block]:
    ordered = sorted(pairs, key=lambda pair: not _matters(found, pair))
    shown = [
        SideBySide(
            [_picture(found, index, opened) for index in (pair.one, pair.other)],
            [found.caption(index) for index in (pair.one, pair.other)],
            _title(found, pair),
        )
        for pair in ordered[:SHOWN_PAIRS]
    ]
    rows = [
        [pair.kind, pair.correlation, *(found.caption(index) for index in (pair.one, pair.other)), pair.change]
        for pair in ordered[:SHOWN_ROWS]
    ]
    more = f"; the first {SHOWN_ROWS} of {len(pairs):,}" if len(pairs) > SHOWN_ROWS else ""
    table = Table(["kind", "correlation", "image", "image", "change"], rows, f"All pairs{more}", folded=True)
    return [PairGrid(shown), table]


def _matters(found: Examination, pair: Pair) -> bool:
    return bool(found.parts[pair.one] != found.parts[pair.other] or _differ(found, pair))


def _differ(found: Examination, pair: Pair) -> bool:
    numbers = found.survey.label_numbers
    return bool(numbers[pair.one] != numbers[pair.other])


def _title(found: Examination, pair: Pair) -> str:
    parts = found.parts
    words = [pair.kind if pair.correlation == 1 else f"{pair.kind}, {pair.correlation:.2f}"]
    words += [pair.change] if pair.change else []
    words += ["in two parts"] if parts[pair.one] != parts[pair.other] else []
    apart = "with different findings" if found.survey.has_findings else "of two classes"
    words += [apart] if _differ(found, pair) else []
    return "; ".join(words)


def _picture(found: Examination, index: int, opened: Open | None) -> bytes:
    pixels = found.survey.thumbs[index][None]
    if opened is not None and found.survey.names is not None:
        try:
            with opened(found.survey.names[index]) as content:
                facts = found.survey.facts[index]
                deep = 16 if facts is not None and facts.bits > 8 else 8
                pixels = decode(content, PICTURE_SIDE, "pad", grey=False, deep_bits=deep)
        except UNREADABLE:  # it changed since; the small picture stands for it
            pixels = found.survey.thumbs[index][None]
    return thumbnail(pixels, PICTURE_SIDE)


def _patients(found: Examination) -> list[Block]:
    groups = found.groups
    if groups is None:
        return [
            Paragraph(
                "Not known. Name a column of the table with --group, or where the paths have the patient with "
                r"--patient-from, for example --patient-from 'person(\d+)'. Two images of one patient on two sides of "
                "a split make a result look better than it is."
            )
        ]
    facts = Facts(
        [
            ("patients", groups.count),
            ("most images of one", groups.largest),
            ("in two parts", len(groups.on_two_sides)),
            *([] if found.survey.has_findings else [("under two classes", len(groups.of_two_classes))]),
        ]
    )
    rows = [
        [patient, where, ", ".join(found.images_of(patient))]
        for where, patients in (("in two parts", groups.on_two_sides), ("under two classes", groups.of_two_classes))
        for patient in patients[:SHOWN_ROWS]
    ]
    return [facts, *([Table(["patient", "where", "images"], rows, "Patients", folded=len(rows) > 10)] if rows else [])]


def _shortcuts(found: Examination) -> list[Block]:
    if not found.shortcuts:
        return [Paragraph("There is nothing to compare: all files and borders are alike, or the images are too few.")]
    of_findings = found.survey.has_findings
    rows = [
        [
            *([one.finding] if of_findings else []),
            one.source,
            f"{one.auroc:.3f}",
            f"{one.low:.3f} to {one.high:.3f}",
            f"{one.chance:.3f}",
            f"{one.adjusted:.3f}",
            "yes" if one.is_accused else "no",
        ]
        for one in found.shortcuts
    ]
    text = (
        f"How well {'each finding' if of_findings else 'the class'} can be told from what is not the subject of the "
        "picture. AUROC is that of a ridge "
        "regression on images that it was not fitted on; 0.5 is guessing. Chance is the 95th percentile over "
        f"{PERMUTATIONS} permutations of the labels. A source is a shortcut where p, adjusted by Holm's rule"
        f"{' over all rows' if of_findings else ''}, is at most {LEVEL:g} and the AUROC at least {LEAST_AUROC:g}."
    )
    columns = ["source", "AUROC", "95% interval", "chance", "adjusted p", "shortcut"]
    columns = ["finding", *columns] if of_findings else columns
    tables = [Table(columns, rows)]
    if len(rows) > MOST_UNFOLDED:
        accused = [row for row in rows if row[-1] == "yes"]
        tables = [Table(columns, accused, "Shortcuts")] if accused else []
        tables.append(Table(columns, rows, f"All {len(rows)} that were looked at", folded=True))
    return [Paragraph(text), *tables, *_kinds(found)]


def _kinds(found: Examination) -> list[Block]:
    kinds = found.kinds()
    if not kinds:
        return []
    rows = [[kind, *counts.values()] for kind, counts in kinds[:SHOWN_ROWS]]
    return [
        Table(["kind of file", *found.survey.classes], rows, f"Kinds of file by {_kind(found)}", folded=len(rows) > 20)
    ]


def _classes(found: Examination) -> list[Block]:
    balance = found.balance()
    columns = list(next(iter(balance.values())))
    rows = [[name, *counts.values()] for name, counts in balance.items()]
    blocks: list[Block] = [Table([_kind(found), *columns], rows, f"Images by {_kind(found)} and part")]
    unreadable = found.survey.unreadable
    if unreadable:
        listed = [[found.survey.name_of(index), why] for index, why in list(unreadable.items())[:SHOWN_ROWS]]
        blocks.append(Table(["file", "why"], listed, f"{len(unreadable):,} files that cannot be read"))
    return blocks


def _kind(found: Examination) -> str:
    return "finding" if found.survey.has_findings else "class"


def _limits() -> list[Block]:
    return [
        Paragraph(
            "Copies that were turned by much more than 5°, cropped by much more than 10%, or inverted; pictures that "
            "are plain over most of their area, or under 24 pixels a side; shortcuts inside the picture, such as a "
            "marker, a tube or text that is not at the border. No problem found is not a proof that there is none."
        )
    ]
