"""A plan as a ready snippet for a training framework: `emit` prints it, `FRAMEWORKS` names them.

Every number in a snippet is the plan's, or is marked FILL IN and stops the script until it is filled in.
"""

from __future__ import annotations

from advisor.errors import UnknownNameError
from advisor.planning.records import FRAMEWORKS, PlanAnswer
from advisor.planning.snippets.deepspeed import config
from advisor.planning.snippets.facts import gather
from advisor.planning.snippets.notes import notes
from advisor.planning.snippets.python import render
from advisor.planning.snippets.records import Snippet

__all__ = ["FRAMEWORKS", "Snippet", "emit"]


def emit(answer: PlanAnswer, framework: str) -> Snippet:
    """The planned side of `answer` as a snippet for one of `FRAMEWORKS`; the same plan gives the same text.

    Raises UnknownNameError for a framework that no snippet is there for.
    """
    if framework not in FRAMEWORKS:
        raise UnknownNameError("framework", str(framework), FRAMEWORKS, f"Snippets are for {', '.join(FRAMEWORKS)}.")
    facts = gather(answer)
    if framework == "deepspeed":
        text, language = config(facts), "json"
    else:
        text, language = render(facts, framework), "python"
    return Snippet(text=text, language=language, notes=notes(facts, framework))
