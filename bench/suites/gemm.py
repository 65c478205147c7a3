"""Matrix products of linear layers: M swept for the weights of the catalogue's models and of public sweeps.

y[m, n] = x[m, k] w[n, k]^T and its two backward products, by cuBLAS (torch.mm) and by our Triton kernel. Case kind
"gemm": m, n, k, pass, dtype, library, mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bench.case import Case, Result
from bench.shapes import Linear, all_linears, base_rows, fine_rows, wave_boundaries
from bench.suites import Context, SuiteOptions
from bench.suites.common import (
    ITEM_BYTES,
    Candidate,
    Operands,
    Work,
    calibration,
    copies_of,
    fastest,
    gpu_limits,
    number,
    tf32_setting,
    tiers,
    timed,
    triton_refusal,
    unfit,
)
from bench.timer import Call

SUITE = "gemm"
PASSES = ("forward", "dgrad", "wgrad")
DTYPES = ("fp16", "bf16")
LIBRARIES = ("cublas", "triton")
CANDIDATES = 3  # configurations of our kernel that are timed for each shape
_COARSE = (64, 512, 4096)
_FITTED = 20  # of the linears come in the first tier: enough for a fit, should no time be left for others
_MAIN = 12  # linears: all public sweeps and the catalogue's most shared


def gemm_case(
    m: int, n: int, k: int, *, pass_: str = "forward", dtype: str = "fp16", library: str = "cublas", mode: str = "cold"
) -> Case:
    """One product of a linear layer of n outputs and k inputs over m rows."""
    return Case(
        SUITE, "gemm",
        {"m": m, "n": n, "k": k, "pass": pass_, "dtype": dtype, "library": library, "mode": mode},
    )  # fmt: skip


def cases(options: SuiteOptions) -> list[list[Case]]:
    """Tiers: cuBLAS in all passes at few M, and both sides of the first wave; ours beside it; every weight at few M;
    the chief weights at all octaves and edges, by both libraries; backward; warm; BF16; then everything that is left.
    """
    if options.smoke:
        return [list(_smoke())]
    if options.quick:
        return calibration(SUITE, options)
    linears = all_linears()
    main, sms = linears[:_MAIN], options.sms
    return tiers(
        [*_sweep(main, _COARSE, passes=PASSES), *_edges(main, sms, waves=1), *_sweep(linears[_MAIN:_FITTED], _COARSE)],
        [*_sweep(main, _COARSE, libraries=LIBRARIES[1:]), *_edges(main[:4], sms, waves=1, libraries=LIBRARIES[1:])],
        [*_sweep(linears, _COARSE), *_sweep(main, base_rows()[1::4])],
        _sweep(main, base_rows()[::4], passes=PASSES),
        _sweep(main, base_rows()[::2], libraries=LIBRARIES),
        _sweep(main, base_rows(), libraries=LIBRARIES),
        _edges(main, sms, waves=3, libraries=LIBRARIES),
        _sweep(main, base_rows(), passes=PASSES[1:]),
        _sweep(main[:6], base_rows()[::2], passes=PASSES[1:], libraries=LIBRARIES[1:]),
        _sweep(linears, base_rows()[::2]),
        _sweep(main, base_rows()[::2], mode="warm"),
        _sweep(main, base_rows()[::2], dtype="bf16", libraries=LIBRARIES),
        *(_fine((linear,), sms, libraries=LIBRARIES) for linear in main),
        _fine(linears, sms, libraries=LIBRARIES),
        _every_way(linears, sms),
        capability=options.capability,
    )


def _smoke() -> Iterator[Case]:
    for pass_ in PASSES:
        yield gemm_case(48, 32, 40, pass_=pass_, dtype="fp32")
    yield gemm_case(16, 32, 32, dtype="fp16", mode="warm")
    yield gemm_case(33, 32, 32, library="triton")


def _sweep(
    linears: Iterable[Linear],
    rows: Iterable[int],
    *,
    passes: Iterable[str] = ("forward",),
    dtype: str = "fp16",
    libraries: Iterable[str] = ("cublas",),
    mode: str = "cold",
) -> list[Case]:
    return [
        gemm_case(m, linear.n, linear.k, pass_=pass_, dtype=dtype, library=library, mode=mode)
        for linear in linears
        for pass_ in passes
        for library in libraries
        for m in rows
    ]


def _edges(linears: Iterable[Linear], sms: int | None, *, waves: int, **which: Any) -> list[Case]:
    """The last row count of each of the first waves, and one past it."""
    found = []
    for linear in linears:
        boundaries = wave_boundaries(linear.n, sms, tiles=((256, 128),))[:waves] if sms else ()
        rows = [boundary + past for boundary in boundaries for past in (0, 1)]
        found += _sweep((linear,), rows, **which)
    return found


def _fine(linears: Iterable[Linear], sms: int | None, **which: Any) -> list[Case]:
    return [case for linear in linears for case in _sweep((linear,), fine_rows(linear.n, sms), **which)]


def _every_way(linears: Iterable[Linear], sms: int | None) -> list[Case]:
    """All passes, types and libraries, at all octaves and the edges of the first waves."""
    return [
        case
        for linear in linears
        for dtype in DTYPES
        for case in (
            *_sweep((linear,), base_rows(), passes=PASSES, dtype=dtype, libraries=LIBRARIES),
            *_edges((linear,), sms, waves=4, passes=PASSES, dtype=dtype, libraries=LIBRARIES),
        )
    ]


# Running -------------------------------------------------------------------------------------------------------------


def work_of(case: Case) -> Work:
    """2 m n k FLOP; each operand read once, the result written once (the same three matrices in every pass)."""
    m, n, k = (number(case, name) for name in "mnk")
    item = ITEM_BYTES[str(case.params["dtype"])]
    sizes = {"x": m * k, "w": n * k, "y": m * n}
    written = {"forward": "y", "dgrad": "x", "wgrad": "w"}[str(case.params["pass"])]
    read = sum(size for name, size in sizes.items() if name != written)
    return Work(2 * m * n * k, item * read, item * sizes[written])


def product_of(case: Case) -> tuple[int, int, int]:
    """(M, N, K) of C[M, N] = A[M, K] B[K, N] that this pass is."""
    m, n, k = (number(case, name) for name in "mnk")
    return {"forward": (m, n, k), "dgrad": (m, k, n), "wgrad": (n, k, m)}[str(case.params["pass"])]


def operands_of(case: Case, make: Operands) -> tuple[Any, Any, Any]:
    """(A, B, C) with fresh memory: A and B as the layer has them, transposed where the pass needs it."""
    m, n, k = (number(case, name) for name in "mnk")
    dtype = str(case.params["dtype"])

    def random(rows: int, columns: int) -> Any:
        return make.uniform(rows, columns, dtype=dtype)

    pass_ = case.params["pass"]
    if pass_ == "forward":
        return random(m, k), random(n, k).t(), make.empty(m, n, dtype=dtype)
    if pass_ == "dgrad":
        return random(m, n), random(n, k), make.empty(m, k, dtype=dtype)
    return random(m, n).t(), random(m, k), make.empty(n, k, dtype=dtype)


def run(case: Case, context: Context) -> Result:
    """Time one product."""
    refusal = triton_refusal(context) if case.params["library"] == "triton" else None
    work = work_of(case)
    one_copy = work.read_bytes + work.write_bytes
    refusal = refusal or unfit(context, one_copy, "the product")
    if refusal is not None:
        return refusal
    copies, mode = copies_of(context, work, case.params["mode"], one_copy)
    make = Operands(case, context.torch_device)
    operands = [operands_of(case, make) for _ in range(copies)]
    facts: dict[str, Any] = work.facts() | {"copies": copies}
    with tf32_setting(allowed=False):
        if case.params["library"] == "triton":
            calls, chosen = _triton_calls(case, context, operands)
            facts |= chosen
        else:
            calls = cublas_calls(operands)
        return timed(context, calls, facts, mode=mode)


def cublas_calls(operands: list[tuple[Any, Any, Any]]) -> list[Call]:
    """torch.mm into memory that is there."""
    import torch

    def call(a: Any, b: Any, c: Any) -> Call:
        return lambda: torch.mm(a, b, out=c)

    return [call(*abc) for abc in operands]


def _triton_calls(
    case: Case, context: Context, operands: list[tuple[Any, Any, Any]]
) -> tuple[list[Call], dict[str, Any]]:
    from kernels.choice import ranked, usable
    from kernels.configs import matmul_configs
    from kernels.matmul import prepare_matmul

    def candidate(config: Any) -> Candidate:
        return Candidate(config, lambda: [prepare_matmul(a, b, config=config, out=c) for a, b, c in operands])

    capability, sms = gpu_limits(context)
    if capability is None or sms is None:
        return fastest(context, [candidate(None)])
    m, n, k = product_of(case)
    aligned = all(number(case, name) % 8 == 0 for name in "nk")  # in every pass the matrices lie along n or k
    configs = ranked(usable(matmul_configs(capability), aligned=aligned), m, n, k, sms=sms, capability=capability)
    return fastest(context, [candidate(config) for config in configs[:CANDIDATES]])
