"""Blocks of a study's page that no other page has: verdicts in boxes, sentences as a list, headings in a section."""

from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_ablations.conclude.conclusions import Conclusion
from alexnet_ablations.conclude.sentences import averaged, finding_of
from alexnet_ablations.report.verdicts import VERDICTS, typeset
from alexnet_lab.reports.page import Block, escape


@dataclass(frozen=True)
class Verdict:
    """What one comparison came to, as a box that says in a word whether it was decided."""

    conclusion: Conclusion

    def html(self) -> str:
        """Return its markup."""
        word = VERDICTS[self.conclusion.verdict]
        better = self.conclusion.is_better
        kind = "note" if self.conclusion.verdict == "equivalent" else ""
        if better is not None:
            word += ", for the better" if better else ", for the worse"
            kind = "good" if better else "serious"
        title = self.conclusion.contrast.name + averaged(self.conclusion.contrast)
        text = typeset(finding_of(self.conclusion))
        return (
            f'<div class="callout {kind}"><p class="level">{escape(word)}</p>'
            f"<h3>{escape(title)}</h3><p>{escape(text[:1].upper() + text[1:])}.</p></div>"
        )


@dataclass(frozen=True)
class Sentences:
    """Sentences below each other."""

    sentences: Sequence[str]

    def html(self) -> str:
        """Return its markup."""
        return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in self.sentences) + "</ul>"


@dataclass(frozen=True)
class SideBySide:
    """Boxes beside each other, as many as the page is wide."""

    boxes: Sequence[Block]

    def html(self) -> str:
        """Return its markup."""
        boxes = "".join(box.html() for box in self.boxes)
        return f'<div class="figures two boxes" style="gap:0 2rem;margin:0 0 .5rem">{boxes}</div>'


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str

    def html(self) -> str:
        """Return its markup."""
        return f"<h3>{escape(self.text)}</h3>"


@dataclass(frozen=True)
class Folded:
    """Blocks that are hidden behind a title until they are asked for."""

    title: str
    blocks: Sequence[Block]

    def html(self) -> str:
        """Return its markup."""
        blocks = "".join(block.html() for block in self.blocks)
        return f"<details><summary>{escape(self.title)}</summary>{blocks}</details>"
