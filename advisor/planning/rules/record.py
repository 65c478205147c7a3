"""What is known of one rule, and the closed scale of how sure we are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Confidence = Literal[
    "exact", "measured here", "well supported", "chosen", "rule of thumb", "contested", "not believed", "out of scope"
]
Group = Literal["choosing a size", "the machine", "keeping the run", "learning rate", "statistics", "beliefs"]
GROUPS: tuple[str, ...] = get_args(Group)
MEANINGS: dict[Confidence, str] = {
    "exact": "arithmetic, or what the documentation of the software says; a counterexample would be a bug",
    "measured here": "held against measurements in this project's reports/ACCURACY.md, its error stated",
    "well supported": "several published results agree, within the range given",
    "chosen": "a threshold of ours, with its reason; one somewhat larger or smaller would do, too",
    "rule of thumb": "common practice that often works; nobody knows its range",
    "contested": "published results disagree; no number here depends on it",
    "not believed": "widespread, and the evidence is against it; no number here depends on it",
    "out of scope": "real, but nothing here models it",
}


@dataclass(frozen=True)
class Rule:
    """One rule in a paragraph, with its formula, its range, its source and how sure we are."""

    id: str
    group: Group
    title: str
    statement: str
    formula: str | None  # None: it has none
    known_range: str
    source: str
    confidence: Confidence
    evidence: str  # what the confidence stands on
    constants: tuple[str, ...] = ()  # of this project's code, as "advisor.choice.TIE": their values stand in the text
