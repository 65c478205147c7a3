"""Time of one step at every batch size: a workload's operations, a GPU's facts and a step profile's coefficients.

The GPU's time is the sum of its kernels' (they run one after another); the host's is its launches. A step takes the
longer of the two, rounded where they meet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.errors import BadInputError
from advisor.gemm import gemm_time
from advisor.gpus import Gpu, find_gpu
from advisor.profile import GpuProfile
from advisor.recipe import Recipe
from advisor.step_costs import (
    LAYOUTS,
    PRODUCT_KINDS,
    TILES,
    Coefficients,
    Machine,
    ProductCost,
    at,
    coefficients,
    op_seconds,
    products_seconds,
)
from advisor.step_neighbours import time_shares
from advisor.step_ops import MEMORY_CLASSES, PASSES, step_ops
from advisor.step_profile import StepProfile, load_step_profile
from advisor.workload.catalogue import select_variant
from advisor.workload.schema import Affine, Op, Workload

Floats = NDArray[np.float64]
Batches = NDArray[np.int64]

CLASSES = ("conv", "gemm", "attention", "normalisation", "elementwise", "optimizer", "other")
_CLASS_OF_KIND = {
    "gemm": "gemm", "batch_norm": "normalisation", "norm": "normalisation", "elementwise": "elementwise",
}  # fmt: skip
ANCHORS = np.unique(np.rint(2 ** np.arange(0, 20.01, 0.4)))  # batch sizes, 1 to 2^20
FITTED_FLOP_PER_CLOCK_PER_SM = 512  # of the RTX 3090, FP16 with FP32 accumulate
REFERENCE_ROWS = 8192  # of the products by which a GEMM profile is held against the step coefficients
CACHED_BATCHES = 256  # sizes predicted at a time, so that the arrays of operations by sizes stay in the CPU's cache
OVERLAP_POWER = 6  # sharpness of the change from host-bound to GPU-bound
STEPS_CHECKED = frozenset({"rtx-4090", "rtx-5090", "rtx-pro-6000-max-q"})  # GPUs of the held-out steps "other_gpus"
SMALLEST_L2_BYTES = 6 * 2**20  # L2 of a GPU whose size is unknown: the smallest of those with profiles


@dataclass(frozen=True)
class StepError:
    """Held-out |ln(predicted / measured)| of samples/s, or the larger error of products (see `StepModel.error`)."""

    mean_abs_log: float
    p90_abs_log: float
    origin: str


@dataclass(frozen=True)
class StepCurve:
    """A step at each batch size; every array has the shape of `batches`, times are in seconds."""

    batches: Batches
    time_s: Floats
    gpu_time_s: Floats  # sum of all kernels
    host_time_s: Floats  # launches
    class_time_s: dict[str, Floats]  # sums to gpu_time_s
    wave_efficiency: Floats  # of matrix products, convolutions and attention products, weighted by their time
    tile_efficiency: Floats
    quantization_loss_s: Floats  # what whole tiles and waves cost

    @property
    def busy_share(self) -> Floats:
        """Share of the step in which the GPU runs kernels."""
        return np.minimum(1.0, self.gpu_time_s / self.time_s)


@dataclass(frozen=True)
class LayerCost:
    """One operation of the step, all its calls together; tiles and sizes are 0 where it has none."""

    layer: str
    op: str  # "fprop", "dgrad", "wgrad", "attention forward", ... or the class of the operations summed up
    m: int
    n: int
    k: int
    count: int
    time_s: float
    ideal_time_s: float  # with whole tiles and waves
    tile_m: int
    tile_n: int
    split_k: int
    waves: float
    wave_efficiency: float
    tile_efficiency: float
    bound: str  # "compute", "memory" or "latency"
    alignment_note: str | None
    share: float  # of the step
    flops: float  # multiply-adds as 2, half of a causal attention's; 0: none are counted, it only moves data
    traffic_bytes: float  # the least: every input read once, every output written once


def sustained_share(gpu: Gpu) -> float:
    """Share of the boost clock that Tensor Cores sustain under the power limit: a stated assumption.

    An SM at full load needs about 1.4 W per GHz on the 4 and 5 nm chips of compute capability 8.9 and 12, 2.5 W before
    and on Hopper and B200. It stands on long GEMMs of the L40S (0.98 W per SM and GHz, 0.70 of the short ones' speed)
    and the RTX PRO 6000 Server (1.28 W, 0.98), and on RTX 3090, A100 and H100, which have 2.5 W or more and keep pace.
    """
    if gpu.tdp_w is None or gpu.boost_clock_hz is None:
        return 1.0
    needed = 1.4 if gpu.compute_capability == (8, 9) or gpu.compute_capability[0] == 12 else 2.5
    return min(1.0, gpu.tdp_w / (gpu.sms * gpu.boost_clock_hz / 1e9) / needed)


def product_scale(gpu: Gpu, profile: GpuProfile | None, values: Mapping[str, float]) -> float:
    """What matrix products reach on a GPU over what the step coefficients, fitted on a GeForce, would make of its peak.

    GeForce cards run above their nominal boost clock, as the one fitted does, and take the coefficients as they are,
    unless their own products were measured. Others take their GEMM profile's share of the peak in large products; a
    borrowed one is scaled by what the two cards' power limits sustain.
    """
    if profile is None or not takes_product_rates(gpu, profile):
        return sustained_share(gpu)
    peak = gpu.peak_flops_per_s("fp16")
    if peak is None:
        return 1.0
    side = np.array([1024, 2048, 4096])
    seconds = gemm_time(profile, gpu, REFERENCE_ROWS, side, side, engine="numpy").time_s
    reached = 2 * REFERENCE_ROWS * side * side / seconds / peak
    per_clock = gpu.fp16_flop_per_clock_per_sm or FITTED_FLOP_PER_CLOCK_PER_SM
    prologue = values["gemm.prologue_k"] * per_clock / FITTED_FLOP_PER_CLOCK_PER_SM
    modelled = values["gemm.rate"] * side / (side + prologue)
    scale = float(np.median(reached / modelled))
    if profile.borrowed_from is not None:
        scale *= sustained_share(gpu) / sustained_share(find_gpu(profile.borrowed_from))
    return scale


def takes_product_rates(gpu: Gpu, profile: GpuProfile) -> bool:
    """Whether `product_scale` reads a GPU's rate of 2-byte products from its GEMM profile."""
    return "GeForce" not in gpu.name or ("fp16" in profile.gemm and profile.gemm["fp16"].kind == "measured")


def machine(gpu: Gpu, recipe: Recipe, scale: float = 1.0) -> Machine:
    """The facts the step model scales by; `scale` multiplies the rate of 2-byte products.

    Raises BadInputError where bandwidth or peak of the GPU is unknown.
    """
    bandwidth = gpu.memory_bandwidth_bytes_per_s
    vector = gpu.peak_flops_per_s("fp32")
    if bandwidth is None or vector is None:
        missing = "memory bandwidth" if bandwidth is None else "FP32 peak"
        raise BadInputError(f"the {missing} of {gpu.name} is unknown, so no step can be predicted: see advisor gpus")
    half = gpu.peak_flops_per_s("bf16" if recipe.precision == "bf16" else "fp16")
    single = gpu.peak_flops_per_s("tf32") if recipe.precision == "tf32" else None
    single_rate = (single or vector) / (gpu.sms * (gpu.boost_clock_hz or 1.0))
    return Machine(
        sms=gpu.sms,
        half_flops_per_s=scale * half if half else vector,
        single_flops_per_s=single or vector,
        vector_flops_per_s=vector,
        bandwidth_bytes_per_s=bandwidth,
        l2_bytes=gpu.l2_bytes or SMALLEST_L2_BYTES,
        half_prologue=(gpu.fp16_flop_per_clock_per_sm or FITTED_FLOP_PER_CLOCK_PER_SM) / FITTED_FLOP_PER_CLOCK_PER_SM,
        single_prologue=single_rate / FITTED_FLOP_PER_CLOCK_PER_SM,
    )


@dataclass(frozen=True)
class Update:
    """What the optimizer and the handling of gradients move and launch, beside the traced forward and backward."""

    bytes_: float
    kernels: float


def update_work(workload: Workload, recipe: Recipe) -> Update:
    """Optimizer step, gradient handling and loss scaling, from PyTorch's operations on FP32 tensors.

    Bytes per parameter: SGD with momentum multiplies the momentum, adds the gradient, adds to the weight (8 + 12 +
    12); Adam lerps one moment (12), scales and accumulates the other (8 + 16), then square root, scale, shift and
    weight (8 + 8 + 8 + 16); AdamW decays the weight too (8). Gradients that are kept are zeroed (4) and added to (12);
    a GradScaler unscales them in place (8). A loop launches one kernel per tensor and operation; multi-tensor kernels
    take about 30 tensors each (torch/optim, ATen/native/cuda/MultiTensorApply.cuh).
    """
    if recipe.mode == "infer":
        return Update(0.0, 0.0)
    operations, per_parameter = {"sgd": (3, 32), "adam": (7, 76), "adamw": (8, 84)}[recipe.optimizer]
    tensors = float(workload.parameter_tensors)
    kernels = operations * (max(1.0, tensors / 30) if recipe.foreach else tensors)
    if not recipe.set_to_none:
        per_parameter += 16
        kernels += (max(1.0, tensors / 30) if recipe.foreach else tensors) + tensors
    if recipe.grad_scaler and recipe.precision == "fp16":
        per_parameter += 8
        kernels += max(1.0, tensors / 30) + 4
    return Update(per_parameter * float(workload.trainable_parameters), kernels)


class StepModel:
    """Predicts one workload's step on one GPU under one recipe. Cheap to build; `curve` takes many batch sizes.

    Raises BadInputError for a recipe the workload was not traced for, or a GPU without known bandwidth.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        gpu: Gpu,
        profile: GpuProfile | None,
        recipe: Recipe,
        step_profile: StepProfile | None = None,
    ) -> None:
        self.workload, self.gpu, self.profile, self.recipe = workload, gpu, profile, recipe
        self.step_profile = step_profile or load_step_profile()
        self.variant = select_variant(workload, recipe)
        self._values = self.step_profile.train if recipe.mode == "train" else self.step_profile.infer
        self.product_profile = self._rates_profile()
        """The GEMM profile whose rates stand in this step; None: its products stand on the step profile and facts."""
        self._c, self.machine = self._on_this_gpu()
        self._layout = LAYOUTS.index("nchw" if self.variant.layout == "nchw" else "nhwc")
        self._ops = step_ops(self.variant)
        self._update = update_work(workload, recipe)
        kinds = [_class_of(op) for op in self.variant.ops]
        layout = LAYOUTS[self._layout]
        own = gpu.id == self.step_profile.gpu
        self._nearby = {k: v for k, v in self.step_profile.nearby.items() if own and k.partition(".")[0] == layout}
        self._sides = self._image_sides()
        self._tiles = self._likely_tiles()
        self._factor = self._neighbours_factor()
        self._class = np.array([CLASSES.index(name) for name in kinds], dtype=np.int64)

    @property
    def error(self) -> StepError:
        """Held-out error on a card like this one.

        Where the rates of products are those of another GPU, and no step was checked on this one, it is never less than
        the error of borrowed products. That is cautious: products are a part of a step. (Theirs is |predicted /
        measured - 1| of the time, which differs from the logarithm in second order.)
        """
        own = self.gpu.id == self.step_profile.gpu and self.recipe.mode == "train"
        key = ("nchw" if self._layout else "nhwc") if own else "other_gpus"
        found = self.step_profile.held_out[key]
        unmeasured = "" if self.recipe.autocast else f"; no {self.recipe.precision} step was measured: this stands in"
        steps = StepError(found.mean, found.p90, found.what + unmeasured)
        lent = self.product_profile
        donor = None if lent is None or self.gpu.id in STEPS_CHECKED else lent.borrowed_from
        if lent is None or donor is None or lent.error.mean <= steps.mean_abs_log:
            return steps
        whose = f"products predicted for a GPU by those of another, as here from {donor}"
        if not lent.borrowing_checked:
            whose = f"products on {donor} itself, whose rates stand for this GPU's: that loan could be checked nowhere"
        return StepError(
            lent.error.mean, max(lent.error.p90, steps.p90_abs_log), f"of matrix {whose}; steps: {steps.origin}"
        )

    def curve(self, batches: Batches) -> StepCurve:
        """Predict a step at each batch size (whole numbers, any order)."""
        batches = np.asarray(batches, dtype=np.int64)
        parts = [self._curve(batches[i : i + CACHED_BATCHES]) for i in range(0, max(1, len(batches)), CACHED_BATCHES)]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _curve(self, batches: Batches) -> StepCurve:
        sizes = batches.astype(float)
        seconds, cost = self._op_seconds(sizes)
        weighted = seconds * self._ops.count[:, None]
        optimizer = self._optimizer_s()
        classes = {name: weighted[self._class == i].sum(axis=0) for i, name in enumerate(CLASSES)}
        classes["optimizer"] = np.full(len(sizes), optimizer)
        gpu_time = weighted.sum(axis=0) + optimizer
        launches = float((self._ops.count * self._ops.kernels).sum()) + self._update.kernels
        host_time = np.full(len(sizes), launches * self._values["host_s"])
        p = OVERLAP_POWER
        longest = np.maximum(gpu_time, host_time)
        time = longest * ((gpu_time / longest) ** p + (host_time / longest) ** p) ** (1 / p)
        counts = self._ops.count[self._ops.products.index][:, None]
        product_s = cost.seconds * counts
        total = np.maximum(product_s.sum(axis=0), 1e-30)
        wave_efficiency = cost.waves / np.ceil(cost.waves)
        loss = ((cost.seconds - cost.unquantized_s) * counts).sum(axis=0)
        has_products = len(self._ops.products.index) > 0
        return StepCurve(
            batches=batches,
            time_s=time,
            gpu_time_s=gpu_time,
            host_time_s=host_time,
            class_time_s=classes,
            wave_efficiency=(product_s * wave_efficiency).sum(axis=0) / total if has_products else np.ones(len(sizes)),
            tile_efficiency=(product_s * cost.tile_efficiency).sum(axis=0) / total
            if has_products
            else np.ones(len(sizes)),
            quantization_loss_s=np.maximum(loss, 0.0),
        )

    def layers(self, batch: int) -> list[LayerCost]:
        """Cost of every product, convolution and attention at one batch size, then the rest by class, largest first."""
        return sorted(self.layer_costs(batch), key=lambda layer: layer.time_s, reverse=True)

    def layer_costs(self, batch: int, *, summed: bool = True) -> list[LayerCost]:
        """As `layers`, in an order that is the same at every batch size.

        `summed`: operations that only move data are summed up by class; otherwise each is one entry, as the rest are.
        """
        sizes = np.array([batch], dtype=float)
        seconds, cost = self._op_seconds(sizes)
        step_s = float(self.curve(np.array([batch])).time_s[0])
        out = [self._product_layer(i, float(batch), cost, step_s) for i in range(len(self._ops.products.index))]
        for index in (self._ops.grouped.index, self._ops.depthwise.index, self._ops.attention.index):
            out += [self._plain_layer(int(i), float(seconds[i, 0]), float(batch), step_s) for i in index]
        moved = [
            self._moving_layer(int(i), MEMORY_CLASSES[j].replace("_", " "), float(seconds[i, 0]), float(batch), step_s)
            for i, j in zip(self._ops.memory, self._ops.memory_class, strict=True)
        ]
        out += _summed(moved) if summed else moved
        if self.recipe.mode == "train":
            out.append(_moving("all", "optimizer", 1, self._optimizer_s(), self._update.bytes_, step_s))
        return out

    def _rates_profile(self) -> GpuProfile | None:
        fitted = self.gpu.id == self.step_profile.gpu
        if self.profile is None or fitted or not self.recipe.autocast:
            return None
        if self.gpu.peak_flops_per_s(self.recipe.precision) is None:  # no Tensor Cores for it: `machine` takes FP32's
            return None
        return self.profile if takes_product_rates(self.gpu, self.profile) else None

    def _on_this_gpu(self) -> tuple[Coefficients, Machine]:
        """Coefficients and facts; rates and waves of GEMM on other GPUs than the fitted one are its GEMM profile's.

        Convolutions keep the assumed hardness of waves: whole networks whose batch was varied by one show little of it
        (127, 128 and 129 samples within 1.4 % on a V100), and no table shows single ones.
        """
        c = coefficients(self._values)
        precision = "fp16" if self.recipe.autocast else "fp32"
        own = self.gpu.id == self.step_profile.gpu and self.recipe.autocast
        if self.profile is not None and not own and precision in self.profile.gemm:
            of_products = self.profile.gemm[precision].coefficients.wave_hardness
            c = replace(c, hardness=np.array([c.hardness[0], of_products]))
        if own or not self.recipe.autocast:
            return c, machine(self.gpu, self.recipe)
        return c, machine(self.gpu, self.recipe, product_scale(self.gpu, self.profile, self._values))

    # Inside -----------------------------------------------------------------------------------------------------------

    def _op_seconds(self, sizes: Floats) -> tuple[Floats, ProductCost]:
        """Seconds of one call of each operation (ops, batches), the neighbours' correction applied."""
        seconds, cost = op_seconds(self._ops, sizes, self._layout, self._c, self.machine, self._tiles)
        if self._nearby:
            beside = self._beside_measured(sizes)
            seconds[self._ops.products.index] += cost.seconds * (beside - 1)
            cost = replace(cost, seconds=cost.seconds * beside, unquantized_s=cost.unquantized_s * beside)
        if self._factor == 1:
            return seconds, cost
        corrected = replace(cost, seconds=cost.seconds * self._factor, unquantized_s=cost.unquantized_s * self._factor)
        return seconds * self._factor, corrected

    def _beside_measured(self, sizes: Floats) -> Floats:
        """Correction of each product (products, batches) from convolutions of this GPU that were measured alone."""
        p = self._ops.products
        found = np.ones((len(p.index), len(sizes)))
        for key, nearby in self._nearby.items():
            rows = np.flatnonzero(p.kind == PASSES.index(key.partition(".")[2]))
            m, n, k = (np.broadcast_to(at(line[rows], sizes), (len(rows), len(sizes))) for line in (p.m, p.n, p.k))
            side = np.broadcast_to(self._sides[rows, None], m.shape)
            axes = {"m": m.ravel(), "n": n.ravel(), "k": k.ravel(), "side": side.ravel()}
            found[rows] = np.exp(nearby.log_correction(axes)).reshape(m.shape)
        return found

    def _image_sides(self) -> Floats:
        """Geometric mean of height and width of each product's output image; 1 where it is no convolution."""
        ops = [self.variant.ops[i] for i in self._ops.products.index]
        return np.array([math.sqrt(op.dims["p"][0] * op.dims["q"][0]) if "p" in op.dims else 1.0 for op in ops])

    def _neighbours_factor(self) -> float:
        """Correction from measured training steps of this very GPU that spend their time alike; 1 on any other."""
        if self.gpu.id != self.step_profile.gpu or self.recipe.mode != "train" or not self.recipe.autocast:
            return 1.0
        traffic = self._update.bytes_ / (self.machine.bandwidth_bytes_per_s * self._c.optimizer_bandwidth)
        shares = time_shares(self._ops, self._layout, self._c, self.machine, traffic)
        neighbours = self.step_profile.neighbours.get(LAYOUTS[self._layout])
        return self.step_profile.factor * (float(np.exp(neighbours.log_correction(shares))) if neighbours else 1.0)

    def _likely_tiles(self) -> NDArray[np.bool_]:
        """(products, tiles): those cheapest at any of a fixed set of batch sizes. Spares searching the rest."""
        p = self._ops.products
        found = np.zeros((len(p.index), len(TILES)), dtype=bool)
        cost = products_seconds(p, at(self._ops.bytes_[p.index], ANCHORS), ANCHORS, self._layout, self._c, self.machine)
        found[np.arange(len(p.index))[:, None], cost.tile] = True
        return found

    def _optimizer_s(self) -> float:
        traffic = self._update.bytes_ / (self.machine.bandwidth_bytes_per_s * self._c.optimizer_bandwidth)
        return (traffic + self._update.kernels * self._c.kernel_s) * self._factor

    def _product_layer(self, i: int, batch: float, cost: ProductCost, step_s: float) -> LayerCost:
        p, index = self._ops.products, int(self._ops.products.index[i])
        op = self.variant.ops[index]
        tile_m, tile_n = TILES[int(cost.tile[i, 0])]
        m, n, k = (round(float(line[i, 0] + line[i, 1] * batch)) for line in (p.m, p.n, p.k))
        waves, launch = float(cost.waves[i, 0]), op.kernels * self._c.kernel_s * self._factor
        time = float(cost.seconds[i, 0])
        bound = "compute" if cost.compute_s[i, 0] >= cost.traffic_s[i, 0] else "memory"
        kind = PRODUCT_KINDS[int(p.kind[i])]
        return LayerCost(
            layer=self._layer_name(op),
            op=kind.removeprefix("conv_") if kind.startswith("conv") else f"{op.phase} {kind}",
            m=m, n=n, k=k,
            count=op.count,
            time_s=(time + launch) * op.count,
            ideal_time_s=(float(cost.unquantized_s[i, 0]) + launch) * op.count,
            tile_m=tile_m, tile_n=tile_n,
            split_k=int(cost.split_k[i, 0]),
            waves=waves,
            wave_efficiency=waves / float(np.ceil(waves)),
            tile_efficiency=float(cost.tile_efficiency[i, 0]),
            bound="latency" if launch > time else bound,
            alignment_note=_alignment(p.unaligned[i], p.stem[i], kind),
            share=(time + launch) * op.count / step_s,
            flops=_size(op.flops, batch) * op.count,
            traffic_bytes=_traffic(op, batch),
        )  # fmt: skip

    def _plain_layer(self, index: int, seconds: float, batch: float, step_s: float) -> LayerCost:
        op = self.variant.ops[index]
        grouped = index in set(self._ops.grouped.index.tolist())
        name = op.kind.removeprefix("conv_").replace("_", " ")
        groups = op.dims.get("groups", (1, 0))[0]
        is_conv, launch = op.kind.startswith("conv"), op.kernels * self._c.kernel_s * self._factor
        note = f"{groups} groups" if grouped else "depthwise: no Tensor Cores" if is_conv else None
        bound = "memory" if is_conv and not grouped else "compute"
        causal = op.kind.startswith("attention") and op.dims["causal"][0] == 1
        return LayerCost(
            layer=self._layer_name(op), op=name, m=0, n=0, k=0, count=op.count, time_s=seconds * op.count,
            ideal_time_s=seconds * op.count, tile_m=0, tile_n=0, split_k=1, waves=0.0, wave_efficiency=1.0,
            tile_efficiency=1.0,
            bound="latency" if 2 * launch > seconds else bound,
            alignment_note=note, share=seconds * op.count / step_s,
            flops=_size(op.flops, batch) * op.count * (0.5 if causal else 1.0), traffic_bytes=_traffic(op, batch),
        )  # fmt: skip

    def _moving_layer(self, index: int, op_class: str, seconds: float, batch: float, step_s: float) -> LayerCost:
        op = self.variant.ops[index]
        return _moving(
            self._layer_name(op), op_class, op.count, seconds * op.count, _traffic(op, batch), step_s,
        )  # fmt: skip

    def _layer_name(self, op: Op) -> str:
        names = [self.workload.layer_names[i] for i in op.layers if i < len(self.workload.layer_names)]
        distinct = list(dict.fromkeys(name or self.workload.name for name in names))
        return (distinct[0] if distinct else op.name) + (f" and {len(distinct) - 1} more" if len(distinct) > 1 else "")


def _joined(parts: Sequence[StepCurve]) -> StepCurve:
    """Curves of consecutive batch sizes as one."""

    def join(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    classes = {name: np.concatenate([part.class_time_s[name] for part in parts]) for name in parts[0].class_time_s}
    arrays = {f.name: join(f.name) for f in fields(StepCurve) if f.name != "class_time_s"}
    return StepCurve(class_time_s=classes, **arrays)


def _class_of(op: Op) -> str:
    if op.kind.startswith("conv"):
        return "conv"
    if op.kind.startswith("attention") or op.kind == "bmm" or op.name.startswith(("_softmax", "_safe_softmax")):
        return "attention"
    return _CLASS_OF_KIND.get(op.kind, "other")


def _alignment(unaligned: Any, stem: Any, kind: str) -> str | None:
    if stem:
        return "few input channels: padded to 4 or 8"
    if not unaligned:
        return None
    what = "channels" if kind.startswith("conv") else "a contiguous dimension"
    return f"{what} not a multiple of 8 (16 bytes)"


def _size(line: Affine, batch: float) -> float:
    return line[0] + line[1] * batch


def _traffic(op: Op, batch: float) -> float:
    return (_size(op.read_bytes, batch) + _size(op.write_bytes, batch)) * op.count


def _moving(layer: str, op: str, calls: int, time_s: float, traffic_bytes: float, step_s: float) -> LayerCost:
    """An operation that only moves data."""
    return LayerCost(
        layer=layer, op=op, m=0, n=0, k=0, count=calls, time_s=time_s, ideal_time_s=time_s, tile_m=0, tile_n=0,
        split_k=1, waves=0.0, wave_efficiency=1.0, tile_efficiency=1.0, bound="memory", alignment_note=None,
        share=time_s / step_s, flops=0.0, traffic_bytes=traffic_bytes,
    )  # fmt: skip


def _summed(layers: Sequence[LayerCost]) -> list[LayerCost]:
    """Operations that only move data as one entry per class."""
    by_class: dict[str, list[LayerCost]] = {}
    for layer in layers:
        by_class.setdefault(layer.op, []).append(layer)
    return [
        replace(
            members[0], layer="all", **{
                name: sum(getattr(member, name) for member in members)
                for name in ("count", "time_s", "ideal_time_s", "share", "traffic_bytes")
            },
        )
        for members in by_class.values()
    ]  # fmt: skip
