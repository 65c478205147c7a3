"""Which configuration of our matrix product a card runs fastest, per class of shapes: compile facts first, then times.

What the compiler tells decides which configurations are tried at all (nothing spilled, the matrix instruction used, at
least one CTA per SM), `kernels.choice` ranks those by tiles and waves, and the first few are timed: all of them
briefly, the fastest of these with the timer's full care. The outcome is plain data, for a profile. A shape unlike
those timed keeps the unmeasured choice.

Deciding needs neither torch nor Triton; `compiled` and `matmul_calls` import them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypedDict

from advisor.errors import AdvisorError, BadInputError
from bench.device import Device
from bench.inspect_kernels import compile_quietly, kernel_spec, resident_ctas, shipped_configs
from bench.timer import Call, TimerOptions, rotation, time_calls
from kernels.choice import ranked, usable
from kernels.compile import CubinFacts

if TYPE_CHECKING:
    from kernels.matmul import Layout

SCHEMA_VERSION = 1
CANDIDATES = 6  # timed per shape
FINALISTS = 2  # timed again, with care
QUICK = TimerOptions(samples=3, most_samples=6, budget_s=0.03, relative_spread=0.03)
CAREFUL = TimerOptions(budget_s=0.15)
NOT_WORTH = 0.01  # two runs differ by as much: a gain below it does not change the ranked order
REACH_OCTAVES = 1.0  # a timed shape speaks for those within a factor of 2 in each of M, N and K

# Rows of a layer (batch x positions) by its features, the classes that training meets.
SHAPES = tuple(
    (m, n, k) for n, k in ((1024, 1024), (4096, 1024), (1024, 4096), (4096, 4096)) for m in (16, 128, 512, 2048, 8192)
)

Config = Any  # kernels.matmul.MatmulConfig, or another frozen dataclass with its fields
Facts = Mapping[Config, CubinFacts]
Prepare = Callable[[Config, int, int, int], Sequence[Call]]  # calls that do the same work on different buffers


class TunedTable(TypedDict):
    """Plain data, as JSON holds it. A configuration is the fields of MatmulConfig."""

    schema_version: int
    capability: list[int]
    sms: int
    layout: str
    dtype: str
    rejected: list[dict[str, Any]]  # by the compiler's facts: config, reason
    matmul: list[
        dict[str, Any]
    ]  # m, n, k; timed: [config, time_s, careful], the choice first; failed: [config, reason]


def rejection(facts: CubinFacts, capability: tuple[int, int], *, matrix: bool = True) -> str | None:
    """Why a configuration is not worth timing, by what the compiler made of it; None if it is.

    `matrix`: whether others have a matrix instruction on this architecture, so that one without is no use.
    """
    if facts.spills:
        return f"spills: {facts.stack_bytes} B of stack per thread"
    if matrix and facts.matrix_instruction is None:
        return "no matrix instruction, while others have one"
    residency = resident_ctas(facts, capability)
    return f"no CTA fits an SM: too much for its {residency.limiter}" if residency.ctas == 0 else None


def rejections(facts: Facts, capability: tuple[int, int]) -> dict[Config, str]:
    """The configurations that are not worth timing, with the reasons."""
    matrix = any(found.matrix_instruction for found in facts.values())
    reasons = {config: rejection(found, capability, matrix=matrix) for config, found in facts.items()}
    return {config: reason for config, reason in reasons.items() if reason}


def compiled(capability: tuple[int, int], *, layout: Layout = "nt", dtype: str = "fp16") -> dict[Config, CubinFacts]:
    """Facts of the curated configurations for aligned operands, compiled several at a time.

    Raises as `bench.inspect_kernels.compile_quietly`.
    """
    configs = usable(shipped_configs("matmul", capability))
    specs = [kernel_spec("matmul", config, capability, layout=layout, dtype=dtype) for config in configs]
    return dict(zip(configs, compile_quietly(specs, capability), strict=True))


def candidates(
    capability: tuple[int, int], m: int, n: int, k: int, sms: int, *, facts: Facts | None = None, most: int = CANDIDATES
) -> list[Config]:
    """What to time for C[m, n] = A[m, k] B[k, n], the most promising first.

    `facts` are those of `compiled`; None compiles now. Of each tile only the best number of split-K slices is kept.
    Raises BadInputError where no configuration is worth timing.
    """
    facts = compiled(capability) if facts is None else facts
    rejected = rejections(facts, capability)
    kept = [config for config in facts if config not in rejected]
    best: dict[Config, Config] = {}
    for config in ranked(kept, m, n, k, sms=sms, capability=capability):
        best.setdefault(replace(config, split_k=min(config.split_k, 2)), config)
    if not best:
        reasons = "; ".join(f"{config} {reason}" for config, reason in rejected.items())
        raise BadInputError(
            f"no configuration of the matrix product suits {m} x {n} x {k} on compute capability "
            f"{capability[0]}.{capability[1]}: {reasons or 'K is too short for split-K, and there is no other'}"
        )
    return list(best.values())[:most]


def tune(
    device: Device, prepare: Prepare, *, capability: tuple[int, int], sms: int,
    shapes: Iterable[tuple[int, int, int]] = SHAPES, layout: Layout = "nt", dtype: str = "fp16",
    facts: Facts | None = None, budget_s: float = 60.0,
) -> TunedTable:  # fmt: skip
    """Time the candidates of each shape and keep all times. `prepare` is `matmul_calls` on a GPU.

    A configuration that fails on a shape is kept with its reason. Shapes that the budget does not reach are left out;
    the first is always timed. Raises as `candidates`, and AdvisorError where nothing ran at all.
    """
    start_s = device.now_s()
    facts = compiled(capability, layout=layout, dtype=dtype) if facts is None else facts
    rows: list[dict[str, Any]] = []
    for m, n, k in shapes:
        if rows and device.now_s() - start_s >= budget_s:
            break
        rows.append(tune_one(device, prepare, candidates(capability, m, n, k, sms, facts=facts), m, n, k))
    if not any(row["timed"] for row in rows):
        reasons = dict.fromkeys(failure["reason"] for row in rows for failure in row["failed"])
        raise AdvisorError(f"our matrix product did not run on {device.name}: {'; '.join(reasons) or 'no shapes'}")
    rejected = rejections(facts, capability).items()
    return TunedTable(
        schema_version=SCHEMA_VERSION,
        capability=list(capability),
        sms=sms,
        layout=layout,
        dtype=dtype,
        rejected=[{"config": asdict(config), "reason": reason} for config, reason in rejected],
        matmul=rows,
    )


def choose(table: TunedTable, m: int, n: int, k: int, *, descriptors: bool = True) -> dict[str, Any] | None:
    """Fields of the configuration that was chosen for the timed shape nearest to this one; None where none is near.

    descriptors: whether tensor descriptors may be used. Near is within a factor of 2 in each size; the nearest has the
    least sum of octaves between.
    """
    found: tuple[float, dict[str, Any]] | None = None
    for row in table["matmul"]:
        octaves = [abs(math.log2(asked / row[name])) for name, asked in (("m", m), ("n", n), ("k", k))]
        fits = [e["config"] for e in row["timed"] if descriptors or e["config"].get("variant") != "descriptor"]
        if fits and max(octaves) <= REACH_OCTAVES and (found is None or sum(octaves) < found[0]):
            found = sum(octaves), fits[0]
    return found[1] if found else None


def matmul_calls(device: Device, torch_device: str, *, layout: Layout = "nt", dtype: str = "fp16") -> Prepare:
    """Calls of our matrix product on random operands, as many copies as leave the L2 between two uses."""
    import torch

    from kernels.matmul import DTYPES, prepare_matmul

    def operand(rows: int, columns: int, transposed: bool) -> Any:
        shape = (columns, rows) if transposed else (rows, columns)
        values = torch.randn(shape, device=torch_device, dtype=DTYPES[dtype])
        return values.t() if transposed else values

    def prepare(config: Config, m: int, n: int, k: int) -> list[Call]:
        torch.manual_seed(0)
        size_bytes = 2 * (m * k + k * n)
        copies = rotation(
            size_bytes, device.l2_bytes, free_bytes=device.free_bytes(), bytes_per_copy=size_bytes + 2 * m * n
        ).copies
        return [
            prepare_matmul(operand(m, k, layout[0] == "t"), operand(k, n, layout[1] == "t"), config=config)
            for _ in range(copies)
        ]

    return prepare


def tune_one(device: Device, prepare: Prepare, tried: Sequence[Config], m: int, n: int, k: int) -> dict[str, Any]:
    """Time each configuration of `tried` on one shape: a row of `TunedTable.matmul`. None is timed where all fail."""
    times_s: dict[Config, float] = {}
    careful: set[Config] = set()
    failed: dict[Config, str] = {}

    def take(config: Config, options: TimerOptions) -> None:
        try:
            times_s[config] = time_calls(device, prepare(config, m, n, k), options).median_s
        except Exception as error:  # what torch, Triton or the driver raises has no common base
            device.synchronize()  # raises where the context is lost, so that the worker starts another
            times_s.pop(config, None)
            failed[config] = (str(error).splitlines() or [type(error).__name__])[0]

    for config in tried:
        take(config, QUICK)
    for config in sorted(times_s, key=times_s.__getitem__)[:FINALISTS]:
        take(config, CAREFUL)
        careful.add(config)
    order = _order({c: s for c, s in times_s.items() if c in careful}, tried)
    order += _order({c: s for c, s in times_s.items() if c not in careful}, tried)
    return {
        "m": m,
        "n": n,
        "k": k,
        "timed": [{"config": asdict(c), "time_s": times_s[c], "careful": c in careful} for c in order],
        "failed": [{"config": asdict(config), "reason": reason} for config, reason in failed.items()],
    }


def _order(times_s: Mapping[Config, float], tried: Sequence[Config]) -> list[Config]:
    """The fastest first, unless one that was ranked before it is slower by no more than NOT_WORTH."""
    fastest = sorted(times_s, key=times_s.__getitem__)
    if fastest:
        within = times_s[fastest[0]] * (1 + NOT_WORTH)
        fastest.sort(key=lambda c: (times_s[c] > within, tried.index(c) if times_s[c] <= within else 0))
    return fastest
