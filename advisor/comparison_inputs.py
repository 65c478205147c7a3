"""What a comparison of GPUs is given beside the model: which GPUs, their prices, profiles and power."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from advisor.errors import BadInputError, BrokenFileError
from advisor.gpus import Gpu, ResolvedGpu, find_gpu, resolve_gpu
from advisor.measured import profile_bytes, read_measured_profile
from advisor.step import is_number
from advisor.units import counted

if TYPE_CHECKING:
    from advisor.recipe import Recipe
    from advisor.report.subject import MeasuredSteps

PRICES = (1e-9, 1e9)  # per hour; what a currency may make of it, and no slip of the keys
NEAR = 2.0  # power measured at a size up to this many times smaller or larger stands for the recommended one


@dataclass(frozen=True)
class Entrant:
    """One GPU of a comparison: the names it was asked for by, and the name of its row."""

    asked: tuple[str, ...]
    name: str
    resolved: ResolvedGpu
    notes: tuple[str, ...] = ()  # which GPU the names were taken for

    @property
    def gpu(self) -> Gpu:
        """The GPU's facts."""
        return self.resolved.gpu


@dataclass(frozen=True)
class Power:
    """Electrical power of one GPU while it trains. "at most": a limit it is held to, never what it was seen to draw."""

    watts: float
    kind: Literal["measured", "at most"]
    source: str

    def __str__(self) -> str:
        """As printed: "at most 400 W, the power of the board"."""
        limit = "at most " if self.kind == "at most" else ""
        source, _, _ = self.source.partition(", http")  # the address is in the JSON, and in `advisor gpus`
        return f"{limit}{self.watts:.0f} W, {source}"


def entrants(gpus: Sequence[str]) -> tuple[Entrant, ...]:
    """Resolve names as `resolve_gpu` does, in the order given; names of one GPU become one entrant.

    Raises BadInputError where there is no name or an empty one, and what `resolve_gpu` raises.
    """
    if isinstance(gpus, str) or not isinstance(gpus, Sequence):
        raise BadInputError(f"the GPUs to compare are several names, such as ['a100', 'h100'], not {gpus!r}")
    if not gpus:
        raise BadInputError("no GPU was named: give one or more, such as a100,h100,l40s")
    found: list[tuple[list[str], list[ResolvedGpu]]] = []
    for wanted in gpus:
        if not isinstance(wanted, str) or not wanted.strip():
            raise BadInputError(f"an empty name among the GPUs ({wanted!r}): write them as a100,h100,l40s")
        name, resolved = wanted.strip(), resolve_gpu(wanted)
        asked, same = next((entry for entry in found if entry[1][0].gpu == resolved.gpu), ([], []))
        if not same:
            found.append((asked, same))
        if name.lower() not in map(str.lower, asked):
            asked.append(name)
            same.append(resolved)
    firsts = [same[0] for _, same in found]
    return tuple(
        Entrant(tuple(asked), _name(same[0], [other for other in firsts if other is not same[0]]), same[0],
                _gpu_notes(asked, same))
        for asked, same in found
    )  # fmt: skip


def _gpu_notes(asked: Sequence[str], resolved: Sequence[ResolvedGpu]) -> tuple[str, ...]:
    notes = [each.note for each in resolved if each.note]
    if len(asked) > 1:
        notes.append(f"{', '.join(asked[:-1])} and {asked[-1]} are one GPU: it has one row")
    return tuple(notes)


def _name(resolved: ResolvedGpu, others: Sequence[ResolvedGpu]) -> str:
    """A GPU's id; of a local card that is not as its kind in the table, with the word local."""
    twice = any(other.gpu.id == resolved.gpu.id for other in others)
    return f"{resolved.gpu.id} (local)" if twice and resolved.source == "local" else resolved.gpu.id


def prices_of(price: float | Mapping[str, float] | None, compared: Sequence[Entrant]) -> dict[str, float]:
    """Price per hour of one GPU, by the name of its row; empty where none was given.

    Raises BadInputError for a price that is no positive number, one of a GPU that is not compared, two of one GPU, and
    where a GPU has none while others have.
    """
    if price is None:
        return {}
    if not isinstance(price, Mapping):
        same = check_price(price)
        return {entrant.name: same for entrant in compared}
    found: dict[str, float] = {}
    for key, value in price.items():
        amount = check_price(value)
        for entrant in _named(key, compared):
            if entrant.name in found:
                raise BadInputError(f"two prices for {entrant.name}: give one")
            found[entrant.name] = amount
    missing = [entrant.name for entrant in compared if entrant.name not in found]
    if missing:
        raise BadInputError(f"no price for {', '.join(missing)}: add {missing[0]}=PRICE, or give one price for all")
    return found


def check_price(value: float) -> float:
    """Return a price if it is a positive number within `PRICES`; otherwise raise BadInputError."""
    least, most = PRICES
    if not is_number(value) or not least <= value <= most:  # also where it is NaN
        raise BadInputError(
            f"price {value!r} is no positive number ({least:g} to {most:g}): give what one GPU costs per hour, "
            "such as 2.5"
        )
    return float(value)


def _named(key: str, compared: Sequence[Entrant]) -> list[Entrant]:
    """The entrants that a name means: as it was asked for, or else as `find_gpu` knows it."""
    if not isinstance(key, str):
        raise BadInputError(f"a price for {key!r}: a GPU is named by text, such as a100")
    wanted = key.strip().lower()
    literal = [e for e in compared if wanted in (e.name.lower(), *(asked.lower() for asked in e.asked))]
    if literal:
        return literal
    known = ", ".join(entrant.name for entrant in compared)
    if wanted in ("auto", "local"):
        raise BadInputError(f"a price for {key!r}, which is not compared ({known}): name one of these")
    gpu = find_gpu(key)
    found = [entrant for entrant in compared if entrant.gpu.id == gpu.id]
    if not found:
        raise BadInputError(f"a price for {gpu.id}, which is not compared ({known}): name one of these, or add it")
    return found


def profiles_of(paths: Sequence[Path], compared: Sequence[Entrant]) -> dict[str, Path]:
    """Which profile file stands for which row, by the GPU it says it is of.

    Raises BadInputError for a file that cannot be read, of a GPU that is not compared, or two of one GPU;
    BrokenFileError for one that names no GPU.
    """
    found: dict[str, Path] = {}
    for path in paths:
        gpu = _gpu_of_profile(path)
        rows = [entrant.name for entrant in compared if entrant.gpu.id == gpu]
        if not rows:
            raise BadInputError(f"profile {path} is of {gpu}, which is not compared: add {gpu} to the GPUs")
        if rows[0] in found:
            raise BadInputError(f"two profiles of {gpu}, {found[rows[0]]} and {path}: give one")
        found |= dict.fromkeys(rows, path)
    return found


class _Named(msgspec.Struct):
    gpu: str


def _gpu_of_profile(path: Path) -> str:
    content = profile_bytes(path)
    try:
        return msgspec.json.decode(content, type=_Named).gpu
    except (msgspec.DecodeError, RecursionError) as error:
        raise BrokenFileError(f"profile {path}: {error}; is it a profile? write it anew") from error


def power_of(gpu: Gpu, *, profile: Path | None, steps: Sequence[MeasuredSteps], batch: int) -> Power | None:
    """Power of a GPU while it runs steps of about `batch` samples; None: nothing is known of it.

    Measured, where `steps` of this model hold it at a size near `batch`. Else at most the power limit of the card that
    `profile` was measured on, or the power that the GPU's facts give for the board.
    """
    measured = [
        (abs(math.log(size / batch)), int(size), float(watts), each.recipe)
        for each in steps
        for size, watts in zip(each.batch, each.power_w, strict=True)
        if np.isfinite(watts) and watts > 0 and 1 / NEAR <= size / batch <= NEAR
    ]
    if measured:
        _, size, watts, recipe = min(measured)
        return Power(watts, "measured", f"measured in training steps of {counted(size, 'sample')} ({recipe})")
    if profile is not None and (limit := read_measured_profile(profile).conditions.power_limit_w) is not None:
        return Power(limit, "at most", f"the power limit of the card measured in {profile.name}")
    if gpu.tdp_w is None:
        return None
    return Power(gpu.tdp_w, "at most", f"the power of the board: {gpu.sources.get('tdp_w', 'unverified')}")


def measured_steps(
    records: Sequence[Path], compared: Sequence[Entrant], model: str, recipe: Recipe
) -> dict[str, list[MeasuredSteps]]:
    """Measured training steps of a model in the recipe's precision, from records of `advisor bench`, by GPU id.

    Every GPU that was measured has an entry, though it be empty. Raises BadInputError for records of none of the GPUs
    compared, and what `read_measured` raises.
    """
    found: dict[str, list[MeasuredSteps]] = {}
    for path in records:
        for gpu, steps in _steps_of(path, compared).items():
            found.setdefault(gpu, []).extend(each for each in steps if _is_of(each, model, recipe))
    return found


def _steps_of(path: Path, compared: Sequence[Entrant]) -> dict[str, tuple[MeasuredSteps, ...]]:
    """Steps in one file, by the ids of GPUs that are compared: it may hold rows of several."""
    from advisor.report.measurements import read_measured

    found: dict[str, tuple[MeasuredSteps, ...]] = {}
    other = None
    for gpu in {entrant.gpu.id: entrant.gpu for entrant in compared}.values():
        measured = read_measured(path, gpu=gpu)
        if measured.gpu_id == gpu.id:
            found[gpu.id] = measured.steps
        other = measured.gpu_id
    if not found:
        known = ", ".join(entrant.gpu.id for entrant in compared)
        raise BadInputError(
            f"{path} was measured on {other or 'an unknown GPU'}, which is not compared: leave it out, or add that GPU "
            f"to the ones compared ({known})"
        )
    return found


def unmeasured_power(power: Power | None, steps: Sequence[MeasuredSteps] | None, what: str) -> tuple[str, ...]:
    """What to say where records of a GPU were given and its power is not measured all the same."""
    if steps is None or (power is not None and power.kind == "measured"):
        return ()
    sizes = sorted({int(size) for each in steps for size in each.batch[np.isfinite(each.power_w)]})
    near = f"they have it at {', '.join(map(str, sizes))}" if sizes else "they have it at no size"
    return (f"The records given have no power of {what}: {near}.",)


def _is_of(steps: MeasuredSteps, model: str, recipe: Recipe) -> bool:
    return steps.model == model and recipe.mode == "train" and recipe.precision in steps.recipe.lower()
