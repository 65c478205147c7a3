"""Power of one GPU while it trains as planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.comparison_inputs import Power, entrants, measured_steps, power_of, unmeasured_power
from advisor.loading import profiles_for
from advisor.step import Setup

if TYPE_CHECKING:
    from advisor.report.subject import MeasuredSteps


@dataclass(frozen=True)
class PowerSource:
    """Where power is known from: what the user gives, records of training steps, or at most a limit."""

    setup: Setup
    profile: Path | None  # measured on this card
    steps: Sequence[MeasuredSteps] | None  # None: no records were given
    given: Power | None

    def at(self, batch: int) -> Power | None:
        """Power at so many samples per GPU; see `power_of`. None: nothing is known of it."""
        if self.given is not None:
            return self.given
        gpu = self.setup.resolved_gpu.gpu
        return power_of(gpu, profile=self.profile, steps=self.steps or (), batch=batch)

    def notes(self, batch: int) -> tuple[str, ...]:
        """What to say where records were given and have no power at a size near `batch`."""
        precision, model = self.setup.recipe.precision, self.setup.workload.name
        what = f"{precision} training steps of {model} near batch {batch}"
        return () if self.given is not None else unmeasured_power(self.at(batch), self.steps, what)


def power_source(
    setup: Setup,
    *,
    gpu: str,
    given: Power | None,
    profile: str | Path | None,
    records: str | Path | Sequence[str | Path],
) -> PowerSource:
    """Read what is known of the power of a setup's GPU, named `gpu` by the user.

    Raises BadInputError for records of another GPU, and what `read_measured` raises for a file that is none.
    """
    resolved = setup.resolved_gpu
    path = None if profile is None else Path(profile)
    steps = None
    if records:
        paths = [records] if isinstance(records, (str, Path)) else records
        found = measured_steps([Path(each) for each in paths], entrants([gpu]), setup.workload.name, setup.recipe)
        steps = found.get(resolved.gpu.id, [])
    measured_at = profiles_for(resolved, precision=setup.recipe.precision, path=path).path
    return PowerSource(setup, measured_at, steps, given)
