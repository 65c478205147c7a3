"""A profile measured on one card: what `python -m bench fit --records` writes and predictions on that card read.

It holds what was fitted to the card's own measurements, each with its error on what the fit has not seen, and the
conditions they were made under. Parts that were not measured are absent: the shipped or borrowed ones stand in.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from advisor.decoding import decode_versioned
from advisor.errors import BadInputError, BrokenFileError
from advisor.gpus import Gpu
from advisor.nearby import Nearby
from advisor.profile import SCHEMA_VERSION as PROFILE_VERSION
from advisor.profile import Error, GemmModel, GpuProfile, load_profile, model_fault
from advisor.step_costs import LAYOUTS
from advisor.step_ops import MEMORY_CLASSES, PASSES
from advisor.step_profile import HeldOut, StepProfile, load_step_profile
from advisor.steptime import product_scale

SCHEMA_VERSION = 1
MAX_BYTES = 8 * 2**20  # of a profile file; one of a full sweep is a tenth of that
_CURE = "write it anew with `python -m bench fit --records FILE`"


class Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The card, the software and the clocks that the measurements were made with."""

    gpu_name: str  # the driver's
    gpu_key: str  # tells this card from others: a salted hash of its UUID, or its UUID where it stays at home
    compute_capability: tuple[int, int]
    sms: int
    memory_bytes: int  # 0: unknown
    method_version: int  # of how times are taken: bench.case.METHOD_VERSION
    driver: str | None = None
    cuda: str | None = None
    torch: str | None = None
    cudnn: str | None = None
    triton: str | None = None
    power_limit_w: float | None = None
    sm_clock_hz: float | None = None  # median while measuring
    warnings: tuple[str, ...] = ()  # what was seen, what it spoils, what to do: drift, other processes, throttling


class ConvolutionModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dense convolutions of one precision: shares of the card's own peaks, and the correction beside measured ones."""

    rows: int
    values: dict[str, float]  # named as advisor.step_costs.coefficients does, such as "nhwc.conv_fprop.rate"
    held_out: Error  # convolutional layers not in the fit, all passes
    passes: dict[str, Error]  # the same by pass
    nearby: dict[str, Nearby] = {}  # by layout and pass, such as "nhwc.fprop"


class BandwidthModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Memory-bound operations: the share of the stated bandwidth (and FP32 peak) that each class reaches."""

    rows: int
    values: dict[str, float]  # by class, by layout and class such as "nhwc.copy", and of depthwise convolutions
    held_out: Error


class Ceilings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the card and its host reach at best; None: not measured."""

    copy_bytes_per_s: float | None = None
    matmul_flops_per_s: dict[str, float] = {}  # by precision
    host_s: float | None = None  # of the host per launch of one bare operation
    step_host_s: float | None = None  # of the host per kernel launch of a training step, autograd and Python included
    kernel_s: float | None = None  # least duration of a kernel, start to start


class StepFactor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What whole training steps take over the sum of their parts: sustained clocks, and what no part shows."""

    rows: int
    factor: float  # on the GPU's time, within STEP_FACTORS
    held_out: Error  # models not in the fit


class MemoryUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a training process holds beside its tensors; None: not measured."""

    rows: int
    context_bytes: int | None = None
    workspace_bytes: int | None = None  # cuBLAS's and cuDNN's
    allocator_share: float | None = None  # reserved beyond allocated, as a share of the live peak


class TunedProduct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The configuration of our Triton matrix product that this card ran fastest at one shape."""

    m: int
    n: int
    k: int
    config: dict[str, int | str | bool]  # fields of kernels.matmul.MatmulConfig
    time_s: float
    tried: int  # configurations that were timed


class MeasuredProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything fitted to the measurements of one card."""

    schema_version: int
    gpu: str  # id of the GPU model
    fitted: str  # date, YYYY-MM-DD
    extent: str  # what was measured: "quick" (a calibration) or "full"
    conditions: Conditions
    gemm: dict[str, GemmModel] = {}  # by precision: "fp16" (which BF16 shares), "fp32"
    convolutions: dict[str, ConvolutionModel] = {}  # by precision, as gemm
    bandwidths: BandwidthModel | None = None
    ceilings: Ceilings = Ceilings()
    steps: StepFactor | None = None
    memory: MemoryUse | None = None
    tuned: tuple[TunedProduct, ...] = ()  # FP16, A row-major, B column-major

    def describe(self) -> str:
        """One line: what was measured, when, and with which software; and which chief part was not."""
        c = self.conditions
        software = ", ".join(
            f"{name} {version}" for name, version in (("driver", c.driver), ("torch", c.torch)) if version
        )
        what = "calibrated" if self.extent == "quick" else "measured"
        missing = [name for name, part in (("products", self.gemm), ("convolutions", self.convolutions)) if not part]
        without = f"; {' and '.join(missing)} were not: as without a measurement" if missing else ""
        return f"{what} on this {c.gpu_name} ({self.fitted}{', ' + software if software else ''}){without}"


STEP_FACTORS = (0.7, 1.5)  # what a whole step may take over its parts, before a fault of the measuring is likelier
EXTENTS = ("quick", "full")
LEAST_HARDNESS = 1e-6  # a coefficient is positive
_PLAIN_VALUES = frozenset(
    {*MEMORY_CLASSES, "tile_exponent", "conv.prologue_k", "hardness", "kernel_s", "optimizer.bandwidth"}
)


def gpu_profile_of(measured: MeasuredProfile, gpu: Gpu) -> GpuProfile:
    """The GEMM models for `gpu`: the measured ones, and for a precision that was not measured what load_profile has.

    Raises BadInputError for the profile of another GPU.
    """
    check_gpu(measured, gpu)
    gemm = dict(load_profile(gpu).gemm) | measured.gemm
    return GpuProfile(schema_version=PROFILE_VERSION, gpu=gpu.id, gemm=gemm)


def step_profile_of(
    measured: MeasuredProfile, gpu: Gpu, precision: str, base: StepProfile | None = None
) -> StepProfile:
    """What StepModel takes for `gpu` and a precision: `base` (the shipped one) with what was measured in its place.

    Coefficients become shares of this GPU's own peaks, so those that were not measured are scaled as they would be for
    a GPU without a profile of its own. Raises BadInputError for the profile of another GPU.
    """
    check_gpu(measured, gpu)
    base = base or load_step_profile()
    section = "fp32" if precision in ("fp32", "tf32") else "fp16"
    convolutions = measured.convolutions.get(section) if precision != "tf32" else None
    gemm = gpu_profile_of(measured, gpu)
    train, infer = (
        {**own_values(values, gpu, gemm, section), **_measured_values(measured, convolutions, values["host_s"])}
        for values in (base.train, base.infer)
    )
    memory = base.memory
    if (use := measured.memory) is not None:
        known = {name: getattr(use, name) for name in ("workspace_bytes", "allocator_share")}
        if use.context_bytes is not None:
            known["overhead_bytes"] = use.context_bytes + (use.workspace_bytes or memory.workspace_bytes)
        memory = msgspec.structs.replace(memory, **{name: value for name, value in known.items() if value is not None})
    return msgspec.structs.replace(
        base,
        gpu=gpu.id,
        origin=measured.describe(),
        train=train,
        infer=infer,
        neighbours={},
        memory=memory,
        held_out=_step_errors(measured, base, section),
        nearby={} if convolutions is None else convolutions.nearby,
        factor=1.0 if measured.steps is None else measured.steps.factor,
        measured=measured.describe(),
    )


def own_values(values: Mapping[str, float], gpu: Gpu, gemm: GpuProfile, section: str) -> dict[str, float]:
    """A borrowed step profile's coefficients as shares of this GPU's own peaks, as StepModel would scale them."""
    scale = product_scale(gpu, gemm, values) if section == "fp16" else 1.0
    found = {name: value * scale if name.endswith(".rate") and _on_tensor_cores(name) else value
             for name, value in values.items()}  # fmt: skip
    model = gemm.gemm.get(section)
    if model is not None:
        found["gemm.hardness"] = max(model.coefficients.wave_hardness, LEAST_HARDNESS)
    return found


def _on_tensor_cores(name: str) -> bool:
    return "depthwise" not in name


def _measured_values(
    measured: MeasuredProfile, convolutions: ConvolutionModel | None, host_s: float
) -> dict[str, float]:
    """What was measured, by coefficient. `host_s` is the shipped one, per launch of a step.

    A bare operation takes the host less than one of a training step, so alone it can only raise what is shipped.
    """
    found: dict[str, float] = {}
    if measured.bandwidths is not None:
        found |= measured.bandwidths.values
    ceilings = measured.ceilings
    found["host_s"] = ceilings.step_host_s or max(host_s, ceilings.host_s or 0.0)
    if ceilings.kernel_s is not None:
        found["kernel_s"] = ceilings.kernel_s
    if convolutions is not None:  # whose least duration of a kernel stands for how they were timed alone
        found |= {name: value for name, value in convolutions.values.items() if name != "kernel_s"}
    return found


def _step_errors(measured: MeasuredProfile, base: StepProfile, section: str) -> dict[str, HeldOut]:
    """Errors by what they are printed for; of whole steps where some were measured, else those of a borrower."""
    steps, other = measured.steps, base.held_out["other_gpus"]
    if steps is not None and section == "fp16":
        e = steps.held_out
        found = HeldOut(mean=e.mean, median=e.median, p90=e.p90, bias=0.0, rows=e.rows, what=e.what)
    else:
        products, convolved = measured.gemm.get(section), measured.convolutions.get(section)
        told = [("products", products.held_out)] if products is not None else []
        told += [("convolutions", convolved.held_out)] if convolved is not None else []
        parts = [f"{name} {100 * error.mean:.0f} %" for name, error in told]
        alone = f"; alone, unseen {' and '.join(parts)} off" if parts else ""
        found = msgspec.structs.replace(other, what=f"no whole step was measured on this card: {other.what}{alone}")
    return {"nhwc": found, "nchw": found, "other_gpus": found}


def check_gpu(measured: MeasuredProfile, gpu: Gpu) -> None:
    """Raise BadInputError where a profile was measured on another GPU than the one it is to be used for."""
    if measured.gpu != gpu.id:
        raise BadInputError(
            f"the profile was measured on {measured.gpu}, not {gpu.id}: measure here with advisor bench"
        )


def parse_measured_profile(content: bytes, name: str) -> MeasuredProfile:
    """Decode and check a measured profile. Raises BrokenFileError naming the place and the cure."""
    profile = decode_versioned(
        content, MeasuredProfile, f"profile {name}", version=SCHEMA_VERSION, most_bytes=MAX_BYTES, cure=_CURE
    )
    fault = next(_faults(profile), None)
    if fault:
        raise BrokenFileError(f"profile {name}: {fault}; {_CURE}")
    return profile


def read_measured_profile(path: Path) -> MeasuredProfile:
    """Read and check one file. Raises BadInputError where it cannot be read, BrokenFileError where it is damaged."""
    return parse_measured_profile(profile_bytes(path), str(path))


def profile_bytes(path: Path) -> bytes:
    """A profile file of whatever kind, at most a byte more than its reader takes. Raises BadInputError."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadInputError(f"cannot read profile {path}: {error.strerror}; give a readable file") from error


def measured_profile_bytes(profile: MeasuredProfile) -> bytes:
    """The file of a measured profile: one figure per line, an array of numbers on one."""
    text = msgspec.json.format(msgspec.json.encode(profile), indent=1)
    return re.sub(rb'\[[^\[\]{}"]*\]', lambda array: b"".join(array[0].split()), text) + b"\n"


def _faults(profile: MeasuredProfile) -> Iterator[str]:
    """What is wrong with the numbers, as far as types cannot say it."""
    if profile.extent not in EXTENTS:
        yield f"extent is {profile.extent!r}, not one of {', '.join(EXTENTS)}"
    if profile.conditions.sms < 1 or profile.conditions.memory_bytes < 0:
        yield "conditions must name the SMs and the memory of a card"
    for precision, model in profile.gemm.items():
        if fault := model_fault(model):
            yield f"gemm.{precision}.{fault}"
    for precision, convolutions in profile.convolutions.items():
        place = f"convolutions.{precision}"
        yield from _unknown_values(place, convolutions.values)
        for key, nearby in convolutions.nearby.items():
            layout, _, pass_ = key.partition(".")
            if layout not in LAYOUTS or pass_ not in PASSES:
                yield f"{place}.nearby.{key} is no layout and pass such as nhwc.fprop"
            if fault := nearby.fault():
                yield f"{place}.nearby.{key}: {fault}"
    if profile.bandwidths is not None:
        yield from _unknown_values("bandwidths", profile.bandwidths.values)
    if any(min(tuned.m, tuned.n, tuned.k) < 1 or not 0 < tuned.time_s < math.inf for tuned in profile.tuned):
        yield "tuned holds a shape or a time that is no positive number"
    try:
        datetime.date.fromisoformat(profile.fitted)
    except ValueError:
        yield f"fitted is {profile.fitted!r}, no date like 2026-01-31"
    yield from _faults_of_figures(profile)


def _faults_of_figures(profile: MeasuredProfile) -> Iterator[str]:
    ceilings = msgspec.structs.asdict(profile.ceilings)
    figures = {**ceilings.pop("matmul_flops_per_s"), **ceilings}
    if profile.memory is not None:
        figures |= {name: value for name, value in msgspec.structs.asdict(profile.memory).items() if value != 0}
    for name, value in figures.items():
        if value is not None and not 0 < value < math.inf:
            yield f"{name} is {value}, no positive number"
    if profile.steps is not None and not STEP_FACTORS[0] <= profile.steps.factor <= STEP_FACTORS[1]:
        yield f"steps.factor is {profile.steps.factor}, outside {STEP_FACTORS[0]} to {STEP_FACTORS[1]}"


def _unknown_values(place: str, values: Mapping[str, float]) -> Iterator[str]:
    for name, value in values.items():
        if name not in _PLAIN_VALUES and name.partition(".")[0] not in LAYOUTS:
            yield f"{place}.{name} is no coefficient of the step model"
        if not math.isfinite(value) or (value <= 0 and not name.endswith("exponent")):
            yield f"{place}.{name} is {value}, no positive number"
