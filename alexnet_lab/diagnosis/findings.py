"""A finding: what is wrong with a run, with its numbers, its limit, and what speaks against it."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["serious", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")  # most serious first


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong according to the records. Every text is ready to print."""

    name: str  # a slug that never changes: vanishing-gradients
    severity: Severity
    title: str  # a headline: Gradients vanish on their way to features.conv1
    sentence: str  # what it means, for a reader who does not know it
    evidence: str  # the figures: how much, where, when, of how many
    threshold: str  # the limit that was crossed, and where it comes from
    contrary: str  # what the same records say against this reading
    remedy: str  # what to try, most promising first
    layers: tuple[str, ...] = ()
    epochs: tuple[int, ...] = ()  # in which it was seen
    numbers: Mapping[str, float] = field(default_factory=dict)  # the figures of the evidence, by name
    units: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # site to the units concerned, where units are
    is_inside: bool = False  # it matters only if learning suffers from it (outcome.py)


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """Sort by severity, most serious first; findings of one severity keep the order of the rules."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def describe(findings: Sequence[Finding], not_examined: Sequence[str] = (), width: int = 100) -> str:
    """Write findings, and what could not be examined, as lines of plain text.

    >>> print(describe([]))
    No finding: nothing that was examined crosses its limit.
    """
    lines = [] if findings else ["No finding: nothing that was examined crosses its limit."]
    for number, finding in enumerate(findings, 1):
        lines += wrapped(f"{number}. {finding.severity.upper()}: {finding.title}", "", width)
        lines += wrapped(finding.sentence, "   ", width)
        for what in ("evidence", "threshold", "contrary", "remedy"):
            lines += wrapped(f"{what:<10}{getattr(finding, what)}", "   ", width, hang=10)
        lines.append("")
    lines += [line for text in not_examined for line in wrapped(f"Not examined: {text}", "", width)]
    return "\n".join(lines).rstrip()


def wrapped(text: str, indent: str, width: int, hang: int = 0) -> list[str]:
    """Break a text into lines, the first indented by `indent`, the others by `hang` more."""
    after = indent + " " * hang
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=after, break_long_words=False)
