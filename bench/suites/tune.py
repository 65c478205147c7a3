"""Which configuration of our matrix product this card runs fastest, shape by shape; the profile keeps the choice.

Case kind "tune": m, n, k, layout, dtype. Its facts are a row of `bench.tune.TunedTable`: every configuration timed and
every one that failed; its timing is the chosen one's.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from typing import Any, Final

from bench.case import Case, Result
from bench.suites import Context, SuiteOptions
from bench.suites.common import Work, copies_of, gpu_limits, number, timed, triton_refusal, unfit
from bench.tune import SHAPES, candidates, compiled, matmul_calls, tune_one

SUITE = "tune"
LAYOUT: Final = "nt"  # of a linear layer's forward pass
DTYPE = "fp16"


def tune_case(m: int, n: int, k: int) -> Case:
    """C[m, n] = A[m, k] B[k, n], A row-major and B column-major, in FP16."""
    return Case(SUITE, "tune", {"m": m, "n": n, "k": k, "layout": LAYOUT, "dtype": DTYPE})


def cases(options: SuiteOptions) -> list[list[Case]]:
    """One tier: the shapes that training meets."""
    if options.quick:
        return []
    return [[tune_case(32, 32, 32)] if options.smoke else [tune_case(*shape) for shape in SHAPES]]


def work_of(case: Case) -> Work:
    """2 m n k FLOP; both operands read once, the result written once."""
    m, n, k = (number(case, name) for name in "mnk")
    return Work(2 * m * n * k, 2 * (m * k + n * k), 2 * m * n)


def run(case: Case, context: Context) -> Result:
    """Time the candidates of one shape, those that the compiler's facts leave."""
    work = work_of(case)
    refusal = triton_refusal(context) or unfit(context, work.read_bytes + work.write_bytes, "the product")
    if refusal is not None:
        return refusal
    m, n, k = (number(case, name) for name in "mnk")
    tried = _tried(context, m, n, k)
    prepare = matmul_calls(context.device, context.torch_device, layout=LAYOUT, dtype=DTYPE)
    row = tune_one(context.device, prepare, tried, m, n, k)
    if not row["timed"]:
        return Result("failed", reason="; ".join(failure["reason"] for failure in row["failed"])[:500], facts=row)
    chosen = next(config for config in tried if asdict(config) == row["timed"][0]["config"])
    _, mode = copies_of(context, work, "cold", work.read_bytes + work.write_bytes)
    return timed(context, prepare(chosen, m, n, k), work.facts() | row, mode=mode)


def _tried(context: Context, m: int, n: int, k: int) -> list[Any]:
    capability, sms = gpu_limits(context)
    if capability is not None and sms is not None:
        return candidates(capability, m, n, k, sms, facts=_compiled(capability))
    from kernels.matmul import MatmulConfig

    return [MatmulConfig(tile, tile, 16, stages=1, warps=4) for tile in (16, 32)]  # the interpreter: in miniature


@lru_cache(maxsize=1)
def _compiled(capability: tuple[int, int]) -> Any:
    """Facts of the curated configurations: compiled once for all cases of a child."""
    return compiled(capability, layout=LAYOUT, dtype=DTYPE)
