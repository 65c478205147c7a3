"""The roofline model of a GPU and a step's layers under it.

Source: S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for multicore
architectures", Communications of the ACM 52(4), 2009, https://doi.org/10.1145/1498765.1498785: an operation of x FLOP
per byte of memory traffic reaches at most min(peak, bandwidth x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from advisor.errors import BadInputError
from advisor.gemm import gemm_time
from advisor.recommendation import Recommendation
from advisor.steptime import LayerCost
from advisor.units import duration, percent

# Where operations that no FLOP are counted of need an intensity, it is this: their distance to the memory roof is then
# the share of the bandwidth they miss.
NOMINAL = 1.0  # FLOP per byte
_LARGE = 8192  # side of the product that says what is reached of the peak
_WORTH_SAYING = 0.005  # share of the step


@dataclass(frozen=True)
class Roof:
    """What bounds the operations of one recipe on one GPU."""

    unit: str  # "FP16 Tensor Cores", "FP32"
    peak_flops_per_s: float
    bandwidth_bytes_per_s: float
    vector_flops_per_s: float | None  # FP32 outside Tensor Cores, where it is another figure
    reached_flops_per_s: float | None  # by a large matrix product, predicted

    @property
    def ridge(self) -> float:
        """FLOP per byte from which the peak is the bound, not the bandwidth."""
        return self.peak_flops_per_s / self.bandwidth_bytes_per_s

    def at(self, flop_per_byte: float) -> float:
        """Attainable FLOP/s."""
        return min(self.peak_flops_per_s, self.bandwidth_bytes_per_s * flop_per_byte)


@dataclass(frozen=True)
class Point:
    """One operation of the step under its roof."""

    layer: LayerCost
    flop_per_byte: float  # NOMINAL where no FLOP is counted
    flops_per_s: float
    roof: Literal["memory", "compute"]

    @property
    def moves_only(self) -> bool:
        """Whether no FLOP is counted of it."""
        return self.layer.flops == 0

    @property
    def bytes_per_s(self) -> float:
        """Reached bandwidth, of the least traffic."""
        return self.layer.traffic_bytes / self.layer.time_s


def roof_of(found: Recommendation) -> Roof | None:
    """The roof of a recipe's products; None where the GPU's peak or bandwidth is unknown."""
    gpu, precision = found.setup.resolved_gpu.gpu, found.setup.recipe.precision
    bandwidth, vector = gpu.memory_bandwidth_bytes_per_s, gpu.peak_flops_per_s("fp32")
    tensor = None if precision == "fp32" else gpu.peak_flops_per_s(precision)
    peak = vector if tensor is None else tensor
    if bandwidth is None or peak is None:
        return None
    return Roof(
        unit="FP32" if tensor is None else f"{precision.upper()} Tensor Cores",
        peak_flops_per_s=peak,
        bandwidth_bytes_per_s=bandwidth,
        vector_flops_per_s=None if tensor is None else vector,
        reached_flops_per_s=_reached(found),
    )


def points(found: Recommendation, roof: Roof) -> list[Point]:
    """Every operation at the recommended batch, those that take longest first."""
    layers = found.setup.model.layer_costs(found.batch_size, summed=False)
    longest_first = sorted((layer for layer in layers if layer.time_s > 0), key=lambda layer: -layer.time_s)
    return [_point(layer, roof) for layer in longest_first]


def _point(layer: LayerCost, roof: Roof) -> Point:
    if layer.flops == 0 or layer.traffic_bytes == 0:
        return Point(layer, NOMINAL, NOMINAL * layer.traffic_bytes / layer.time_s, "memory")
    intensity = layer.flops / layer.traffic_bytes
    return Point(layer, intensity, layer.flops / layer.time_s, "memory" if intensity < roof.ridge else "compute")


def _reached(found: Recommendation) -> float | None:
    """FLOP/s that the GPU's profile predicts of a large product; None where it predicts none in this precision."""
    setup = found.setup
    try:
        large = gemm_time(
            setup.profile, setup.resolved_gpu.gpu, _LARGE, _LARGE, _LARGE, precision=setup.recipe.precision,
            engine="numpy",
        )  # fmt: skip
    except BadInputError:
        return None
    return float(large.flops / large.time_s)


def verdict(roof: Roof, step: Sequence[Point], step_s: float) -> str:
    """How much of a step lies under which part of the roof, and what is reached of it there."""
    parts = []
    for name, what in (("memory", "bandwidth"), ("compute", "peak")):
        under = [point for point in step if point.roof == name]
        time_s = sum(point.layer.time_s for point in under)
        if not time_s:
            continue
        text = f"{percent(time_s / step_s)} lies under the {name} roof"
        moving_s = sum(point.layer.time_s for point in under if point.moves_only)
        if name == "memory" and moving_s >= _WORTH_SAYING * step_s:
            text += f" ({percent(moving_s / step_s)} only moves data)"
        if name == "memory":
            reached = sum(point.layer.traffic_bytes for point in under) / time_s / roof.bandwidth_bytes_per_s
        else:
            reached = sum(point.layer.flops for point in under) / time_s / roof.peak_flops_per_s
        parts.append(f"{text}, reaching {percent(reached)} of the {what}")
    waiting_s = step_s - sum(point.layer.time_s for point in step)
    if waiting_s >= _WORTH_SAYING * step_s:
        parts.append(f"{percent(waiting_s / step_s)} waits for launches")
    return f"Of {duration(step_s)} per step {'; '.join(parts)}."
