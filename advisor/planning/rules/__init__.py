"""Every rule that advice and plans go by, and those they do not, as data: `advisor explain-rules` prints it.

The values of thresholds are formatted in from the code that applies them.
"""

from __future__ import annotations

from collections.abc import Sequence

from advisor.errors import UnknownNameError
from advisor.planning.rules.beliefs import RULES as BELIEFS
from advisor.planning.rules.choosing import RULES as CHOOSING
from advisor.planning.rules.keeping import RULES as KEEPING
from advisor.planning.rules.machine import RULES as MACHINE
from advisor.planning.rules.rates import RULES as RATES
from advisor.planning.rules.record import GROUPS, MEANINGS, Confidence, Group, Rule
from advisor.planning.rules.statistics import RULES as STATISTICS

__all__ = ["GROUPS", "MEANINGS", "RULES", "Confidence", "Group", "Rule", "find_rules"]

RULES: tuple[Rule, ...] = (*CHOOSING, *MACHINE, *KEEPING, *RATES, *STATISTICS, *BELIEFS)


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
