"""Every rule that advice and plans go by, and those they do not, as data: `advisor explain-rules` prints it.

The values of thresholds are formatted in from the code that applies them.
"""

from __future__ import annotations

from collections.abc import Sequence

from advisor.errors import UnknownNameError
from advisor.planning.rules import beliefs, choosing, keeping, machine, rates, statistics
from advisor.planning.rules.record import GROUPS, MEANINGS, Confidence, Group, Rule

__all__ = ["GROUPS", "MEANINGS", "RULES", "Confidence", "Group", "Rule", "find_rules"]

RULES: tuple[Rule, ...] = (
    *choosing.RULES, *machine.RULES, *keeping.RULES, *rates.RULES, *statistics.RULES, *beliefs.RULES,
)  # fmt: skip


def find_rules(names: Sequence[str] = ()) -> tuple[Rule, ...]:
    """The rules of these names, in the order given, each once; all of them where none is named.

    Upper case, spaces and underscores do not matter. Raises UnknownNameError with the nearest names.
    """
    if not names:
        return RULES
    by_id = {rule.id: rule for rule in RULES}
    found: dict[str, Rule] = {}
    for name in names:
        key = "-".join(name.lower().replace("_", " ").split())
        if key not in by_id:
            raise UnknownNameError("rule", name, by_id, "`advisor explain-rules --list` names them all.")
        found[key] = by_id[key]
    return tuple(found.values())
