"""A finding: what is wrong with a run, in words, with the numbers behind it and what speaks against it."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["serious", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")  # most serious first


@dataclass(frozen=True)
class Finding:
    """One thing that the records say is wrong. Every text is whole sentences or figures, ready to print."""

    name: str  # a slug that never changes: vanishing-gradients
    severity: Severity
    title: str  # a headline: Gradients vanish on their way to features.conv1
    sentence: str  # what it means, for somebody who has never met it
    evidence: str  # the figures: how much, where, when, of how many
    threshold: str  # the limit that was crossed, and where it comes from
    contrary: str  # what the same records say against this reading
    remedy: str  # what to try, most promising first
    layers: tuple[str, ...] = ()
    epochs: tuple[int, ...] = ()  # in which it was seen
    numbers: Mapping[str, float] = field(default_factory=dict)  # the figures of the evidence, by name
    units: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # site to the units concerned, where units are
    is_inside: bool = False  # of the inside of the network: it matters as far as learning suffers from it (outcome.py)


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """Put the most serious first; among equals the order in which the rules stand, causes before consequences."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def describe(findings: Sequence[Finding], not_examined: Sequence[str] = (), width: int = 100) -> str:
    """Write findings as lines of plain text, and what could not be examined, lest silence be taken for health.

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
