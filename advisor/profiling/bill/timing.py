"""Predicted time of the products of a trace: GEMM, batched GEMM, convolution passes, attention.

One call of one product, the kernels alone, as a profiler sees them: no launches, no gaps between kernels. Which model
predicts what:

    GEMM, batched            advisor.gemm with the GPU's GEMM profile, less the launch that it includes
    matrix times vector      a kernel's least duration, one latency of the memory and the traffic, where that is less:
                             libraries have kernels of their own for it, which the GEMM profile's tiles do not show
    FP32 convolutions        advisor.convolution_time, by the algorithm that the kernels' names tell
    other convolutions       advisor.step_costs with the step profile, in the traced layout
    fused attention          the same
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advisor.convolution import Pass
from advisor.convolution_time import KERNEL_S, Algorithm, convolution_op, fp32_convolution_times
from advisor.gemm import gemm_time
from advisor.gpus import Gpu, ResolvedGpu
from advisor.loading import profiles_for
from advisor.profiling.records import KernelGroup, Operation, Product
from advisor.quantization import MAX_SIZE
from advisor.recipe import PRECISIONS, Recipe
from advisor.step_costs import (
    LAYOUTS,
    PRODUCT_KINDS,
    Coefficients,
    Machine,
    ProductCost,
    coefficients,
    op_seconds,
    traffic_seconds,
)
from advisor.step_ops import step_ops
from advisor.steptime import machine, product_scale
from advisor.workload.schema import Affine, Op, Variant

Floats = NDArray[np.float64]
Layout = Literal["nhwc", "nchw"]

HALF = ("fp16", "bf16")
ONE = np.array([1.0])


class Call(NamedTuple):
    """One call of a product to predict."""

    product: Product
    pass_: Pass | None = None  # of a convolution; of attention: anything but fprop is its backward pass
    algorithm: Algorithm | None = None  # that ran, where the kernels' names tell


@dataclass(frozen=True)
class ProductTime:
    """Predicted seconds of one call, kernels alone."""

    seconds: float
    compute_s: float  # arithmetic alone
    traffic_s: float  # least traffic at the reached bandwidth
    unquantized_s: float  # with whole tiles and waves
    model: str  # "GEMM profile", "implicit", "winograd", "step profile", ...


class TimeModel:
    """The project's time models of one GPU, loaded once. Raises BadInputError where a fact of the GPU is unknown."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        found = profiles_for(ResolvedGpu(gpu, "named"))
        self.gemm, self.steps = found.gemm, found.steps
        self.notes = found.notes
        self.coefficients = coefficients(self.steps.train)
        self._scale = product_scale(gpu, self.gemm, self.steps.train)
        self._machines: dict[str, Machine] = {}
        self.machine("fp32")

    def machine(self, precision: str) -> Machine:
        """Facts of the GPU for one precision. FP32 means CUDA cores for 2-byte formulas too."""
        if precision not in self._machines:
            recipe = Recipe(precision=precision)  # type: ignore[arg-type]  # one of PRECISIONS
            facts = machine(self.gpu, recipe, self._scale if precision in HALF else 1.0)
            if precision not in HALF:  # attention and grouped convolutions know one rate, the 2-byte one
                facts = replace(facts, half_flops_per_s=facts.single_flops_per_s, half_prologue=facts.single_prologue)
            self._machines[precision] = facts
        return self._machines[precision]

    def gemm_hardness(self, precision: str) -> float:
        """Wave hardness of matrix products (advisor.gemm.physics.rounds_of)."""
        model = self.gemm.gemm.get(self._section(precision))
        return model.coefficients.wave_hardness if model else float(self.coefficients.hardness[1])

    def conv_hardness(self) -> float:
        """Wave hardness of convolutions and attention: assumed, no table shows single ones."""
        return float(self.coefficients.hardness[0])

    def traffic_s(self, bytes_: float, kind: str, layout: Layout) -> float:
        """Seconds that so many bytes of a product take; kind as in PRODUCT_KINDS."""
        share = self.coefficients.product_bandwidth[LAYOUTS.index(layout), PRODUCT_KINDS.index(kind)]
        return float(traffic_seconds(np.array([bytes_]), share, self.coefficients, self.machine("fp32"))[0])

    def predict(self, calls: Sequence[Call], precision: str, layout: Layout = "nchw") -> list[ProductTime | None]:
        """One time per call, in its order; None: a product of a kind or with dimensions that no model covers."""
        if precision not in PRECISIONS:
            return [None] * len(calls)
        found: list[ProductTime | None] = [None] * len(calls)
        known = [i for i, call in enumerate(calls) if is_predictable(call.product)]
        wanted = [calls[i] for i in known]
        for members, times in (
            self._gemms(wanted, precision),
            self._fp32_convolutions(wanted, precision),
            self._operations(wanted, precision, layout),
        ):
            for i, time in zip(members, times, strict=True):
                found[known[i]] = time
        return found

    def predict_by_steps(
        self, calls: Sequence[Call], precision: str, layout: Layout = "nchw"
    ) -> list[ProductTime | None]:
        """As `predict`, with all convolutions by the step model: what single ones measured alone add."""
        found = self.predict(calls, precision, layout)
        known = [i for i, time in enumerate(found) if time is not None]
        members, times = self._operations([calls[i] for i in known], precision, layout, dense=True)
        for i, time in zip(members, times, strict=True):
            found[known[i]] = time
        return found

    # Inside -----------------------------------------------------------------------------------------------------------

    def _gemms(self, calls: Sequence[Call], precision: str) -> tuple[list[int], list[ProductTime]]:
        members = [i for i, call in enumerate(calls) if _is_gemm(call)]
        if not members:
            return [], []
        m, n, k, batch = (
            np.array([getattr(calls[i].product, name) for i in members]) for name in ("m", "n", "k", "batch")
        )
        p = gemm_time(self.gemm, self.gpu, m, n, k, batch=batch, precision=precision)
        item = 2 if precision in HALF else 4
        bytes_ = item * batch * (m * k + k * n + m * n).astype(float)
        share = self.coefficients.product_bandwidth[0, PRODUCT_KINDS.index("gemm")]
        traffic = traffic_seconds(bytes_, share, self.coefficients, self.machine(precision))
        seconds = np.maximum(p.time_s - p.launch_s, KERNEL_S)
        whole = np.maximum(p.time_s - p.launch_s - p.tile_loss_s - p.wave_loss_s, 0)
        gemv = KERNEL_S + self._latency_s(precision) + traffic
        is_gemv = (np.minimum(m, n) == 1) & (gemv < seconds)
        seconds, whole = np.where(is_gemv, gemv, seconds), np.where(is_gemv, gemv, np.minimum(whole, seconds))
        compute = np.sqrt(np.maximum(seconds**2 - np.minimum(traffic, seconds) ** 2, 0))
        models = ["matrix times vector" if each else "GEMM profile" for each in is_gemv.tolist()]
        return members, _times(seconds, compute, traffic, whole, models=models)

    def _latency_s(self, precision: str) -> float:
        """What the first bytes from memory take."""
        return self.gemm.gemm[self._section(precision)].coefficients.dram_latency_s

    def _section(self, precision: str) -> str:
        return "fp32" if precision == "fp32" or "fp16" not in self.gemm.gemm else "fp16"

    def _fp32_convolutions(self, calls: Sequence[Call], precision: str) -> tuple[list[int], list[ProductTime]]:
        if precision != "fp32" or self.steps.measured is not None:  # what was measured on the very card knows better
            return [], []
        members = [i for i, call in enumerate(calls) if _is_dense(call)]
        if not members:
            return [], []
        passes = [(calls[i].product.convolution, pass_of(calls[i])) for i in members]
        times = fp32_convolution_times(
            passes,  # type: ignore[arg-type]  # _is_dense: they have a convolution
            self.gpu, self.gemm, algorithms=[calls[i].algorithm for i in members],
        )  # fmt: skip
        columns = (times.seconds, times.compute_s, times.traffic_s, times.unquantized_s)
        return members, _times(*columns, models=times.algorithms)

    def _operations(
        self, calls: Sequence[Call], precision: str, layout: Layout, *, dense: bool = False
    ) -> tuple[list[int], list[ProductTime]]:
        """By the step model, as operations at their own batch size. `dense`: dense FP32 convolutions too."""
        alone = not dense and precision == "fp32" and self.steps.measured is None
        members, ops = [], []
        for i, call in enumerate(calls):
            if _is_gemm(call) or (alone and _is_dense(call)):
                continue
            op = _op(call, precision)
            if op is not None:
                members.append(i)
                ops.append(op)
        if not ops:
            return [], []
        sorted_ops = step_ops(Variant("train", "amp", layout, "fused", tuple(ops), ()))
        if precision == "tf32":  # which no Winograd's algorithm computes: the factor is FP32's
            products = sorted_ops.products
            plain = replace(products, strided_layer=np.ones_like(products.strided_layer))
            sorted_ops = replace(sorted_ops, products=plain)
        c: Coefficients = replace(self.coefficients, kernel_s=0.0)
        seconds, cost = op_seconds(sorted_ops, ONE, LAYOUTS.index(layout), c, self.machine(precision))
        by_op = {int(index): row for row, index in enumerate(sorted_ops.products.index)}
        return members, [_step_time(float(seconds[j, 0]), cost, by_op.get(j)) for j in range(len(ops))]


def _times(*columns: Floats, models: Sequence[str]) -> list[ProductTime]:
    """One record per row of the columns: seconds, arithmetic, traffic, whole tiles and waves."""
    rows = zip(*(column.tolist() for column in columns), models, strict=True)
    return [ProductTime(seconds, compute, traffic, whole, model) for seconds, compute, traffic, whole, model in rows]


def _step_time(seconds: float, cost: ProductCost, row: int | None) -> ProductTime:
    seconds = max(seconds, KERNEL_S)
    if row is None:
        return ProductTime(seconds, seconds, 0.0, seconds, "step profile")
    compute, traffic, whole = (float(a[row, 0]) for a in (cost.compute_s, cost.traffic_s, cost.unquantized_s))
    return ProductTime(seconds, compute, traffic, min(whole, seconds), "step profile")


def is_predictable(product: Product) -> bool:
    """Whether the sizes are those of a product: none empty, none beyond what the models take."""
    lengths = [size for name, size in (product.attention or {}).items() if name != "causal"]
    return all(1 <= size <= MAX_SIZE for size in (product.m, product.n, product.k, product.batch, *lengths))


def _is_gemm(call: Call) -> bool:
    """Matrix products, and convolutions in three dimensions, of which only the product is known."""
    p = call.product
    return p.kind in ("gemm", "bmm") or (p.kind == "conv" and p.convolution is None)


def _is_dense(call: Call) -> bool:
    return call.product.convolution is not None and call.product.convolution.groups == 1


def pass_of(call: Call) -> Pass:
    """The pass of a call; forward where nothing tells."""
    return call.pass_ or call.product.pass_ or "fprop"


def _op(call: Call, precision: str) -> Op | None:
    if call.product.convolution is not None:
        return convolution_op(call.product.convolution, pass_of(call), precision=precision)
    if call.product.attention is None:
        return None
    return _attention_op(call.product, backward=pass_of(call) != "fprop", precision=precision)


def _attention_op(product: Product, *, backward: bool, precision: str) -> Op:
    d = product.attention or {}
    dims: dict[str, Affine] = {name: (size, 0) for name, size in d.items()}
    item = 2 if precision in HALF else 4
    read, write = attention_bytes(d, item, backward=backward)
    return Op(
        kind="attention_bprop" if backward else "attention_fprop", name="attention",
        phase="backward" if backward else "forward", dtype="fp16" if item == 2 else "fp32",
        dims=dims, read_bytes=(read, 0), write_bytes=(write, 0), flops=(product.flops, 0),
    )  # fmt: skip


def attention_bytes(dims: Mapping[str, int], element_bytes: int, *, backward: bool) -> tuple[int, int]:
    """Least traffic of fused attention, (read, written): queries, keys and values in, the result out; backward the
    result and its gradient in too, three gradients out. The softmax's sums, one per query, are FP32.
    """
    heads = dims["batch"] * dims["heads"]
    queries, keys = heads * dims["q_len"], heads * dims["kv_len"]
    operands = element_bytes * (queries * dims["head_dim"] + keys * (dims["head_dim"] + dims["value_dim"]))
    result, sums = element_bytes * queries * dims["value_dim"], 4 * queries
    return (operands + 2 * result + sums, operands) if backward else (operands, result + sums)


def algorithm_of(names: Sequence[str]) -> Algorithm | None:
    """Which algorithm a convolution's kernels ran, by their names; None: they do not tell.

    cuDNN's names: winograd_nonfused:: for the transforms in separate kernels, ..._winograd_128x128_... for the fused
    kernel; fft and gcgemm for Fourier transforms, which no model covers.
    """
    text = " ".join(names).lower()
    if not text or "fft" in text or "gcgemm" in text:
        return None
    if "winograd_nonfused" in text:
        return "winograd"
    return "winograd fused" if "winograd" in text else "implicit"


def pass_of_group(group: KernelGroup, operation: Operation) -> Pass | None:
    """The pass that a group's kernels ran: what their class tells, else their operation."""
    for pass_ in ("fprop", "dgrad", "wgrad"):
        if group.class_ == pass_:
            return pass_
    product = operation.product
    if product is not None and product.pass_ is not None:
        return product.pass_
    return "dgrad" if operation.phase == "backward" else "fprop"
