"""GPU profiles: the fitted coefficients of one GPU, where they come from, and how wrong they were on unseen shapes.

A profile is one JSON file, checked against the structs below when read. Shipped ones live in `advisor/profiles`,
one per GPU with public measurements; every other GPU borrows the nearest of them, scaled by its own facts, and says so.
"""

from __future__ import annotations

import itertools
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from advisor.decoding import decode_versioned
from advisor.errors import BadInputError, BrokenFileError
from advisor.gpus import Gpu, find_gpu
from advisor.nearby import Nearby

SCHEMA_VERSION = 1
FOLDER = Path(__file__).parent / "profiles"
MAX_BYTES = 4 * 2**20  # of a profile file; shipped ones are a tenth of that

HELD_BACK = 0.5  # a card that its power limit slows by more (T4) lends only to cards with no more power per FLOP/s
PRECISIONS = ("fp16", "fp32")  # with timings of their own; BF16 and TF32 derive from "fp16"


class Tile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """An output tile a library's kernels use, and its rate relative to what the coefficients alone would give."""

    m: int
    n: int
    rate: float


class GemmCoefficients(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Physical coefficients of the GEMM time model, relative to a GPU's facts where a fact exists."""

    tiles: tuple[Tile, ...]
    efficiency: float  # achievable share of peak FLOP/s
    dram_efficiency: float  # achievable share of the memory bandwidth
    l2_bytes_per_clock_per_sm: float
    launch_s: float
    dram_latency_s: float
    prologue_cycles: float
    epilogue_cycles: float
    feed_cycles: float
    wave_hardness: float
    reread: float
    split_fixed_s: float
    split_traffic: float
    throttle: float
    throttle_s: float
    most_split_load: float = 4.0  # tiles per SM up to which k is split


class GemmCorrection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Smoothed ln(measured / physical) in 1/1000 on a grid, n outermost and m innermost (advisor.gemm.correction)."""

    n: tuple[int, ...]
    k: tuple[int, ...]
    m: tuple[int, ...]
    fade_octaves: float
    log_permille: tuple[int, ...]

    def table(self) -> NDArray[np.float64]:
        """The grid as a flat array of natural logarithms."""
        return _table(self.log_permille)


@lru_cache(maxsize=16)
def _table(log_permille: tuple[int, ...]) -> NDArray[np.float64]:
    return np.asarray(log_permille, dtype=np.float64) / 1000


class Error(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """|predicted / measured - 1| over rows that the fit has not seen."""

    mean: float
    median: float
    p90: float
    rows: int
    what: str  # which rows, and how they were held out


class GemmModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that predicts matrix products of one precision on one GPU."""

    gpu: str  # id of the GPU whose timings were fitted
    kind: Literal["measured", "public"]  # by `advisor` on this very card, or from published measurements
    origin: str  # measurements, commit, licence
    rows: int  # measurements fitted
    fitted: str  # date, YYYY-MM-DD
    coefficients: GemmCoefficients
    held_out: Error  # (n, k) pairs not in the fit
    correction: GemmCorrection | None = None
    borrowed: Error | None = None  # this GPU predicted from its facts and the coefficients of the nearest other
    note: str | None = None  # what these timings stand for
    nearby: Nearby | None = None  # the correction beside measured products that lie on no grid


class GpuProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The models of one GPU. `gemm` has "fp16", which also stands for BF16 and, scaled, for TF32; and "fp32"."""

    schema_version: int
    gpu: str  # id of the GPU that it is for
    gemm: dict[str, GemmModel]

    @property
    def borrowed_from(self) -> str | None:
        """The GPU whose Tensor Core timings stand for this one; None: its own."""
        donor = _main(self).gpu
        return None if donor == self.gpu else donor

    @property
    def error(self) -> Error:
        """How wrong FP16 products were that the fit has not seen: other sizes, or for a borrower another GPU."""
        model = _main(self)
        return (model.borrowed if self.borrowed_from else None) or model.held_out

    @property
    def borrowing_checked(self) -> bool:
        """Whether the GPU that lends was itself predicted from another's timings, so that `error` is of a loan."""
        return _main(self).borrowed is not None

    def describe(self) -> str:
        """One line: whose coefficients, and from where."""
        model = _main(self)
        if self.borrowed_from:
            return f"borrowed from {model.gpu}, scaled by the facts of {self.gpu}"
        origin = "measured on this GPU" if model.kind == "measured" else "fitted to public measurements of this GPU"
        return f"{origin} ({model.fitted})"

    @property
    def note(self) -> str | None:
        """What a user of a prediction must know about it; None where there is nothing."""
        if not self.borrowed_from:
            return _main(self).note
        wrong = f"predicting a GPU this way was {100 * self.error.mean:.0f} % off where that can be checked"
        if not self.borrowing_checked:
            wrong = f"on {self.borrowed_from} itself they are {100 * self.error.mean:.0f} % off, here likely by more"
        return f"no GEMM timings of {self.gpu}: coefficients of {self.borrowed_from}, scaled by its facts; {wrong}"


def _main(profile: GpuProfile) -> GemmModel:
    return profile.gemm.get("fp16") or next(iter(profile.gemm.values()))


def shipped_profiles() -> tuple[str, ...]:
    """Ids of the GPUs with a shipped profile."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def load_profile(gpu: Gpu, path: Path | None = None) -> GpuProfile:
    """Return the profile at `path`, else the GPU's shipped one; what it lacks comes from the nearest architecture.

    Raises BrokenFileError for a damaged file, and BadInputError where no profile can stand for the GPU.
    """
    own = FOLDER / f"{gpu.id}.json"
    gemm = dict(read_profile(path).gemm) if path else {}
    for precision in PRECISIONS:
        if precision not in gemm and own.exists() and precision in (shipped := read_profile(own).gemm):
            gemm[precision] = shipped[precision]
        if precision not in gemm and (borrowed := _borrow(gpu, precision)) is not None:
            gemm[precision] = borrowed
    if not gemm:
        raise BadInputError("no profile is shipped with this installation: give one with --profile")
    return GpuProfile(schema_version=SCHEMA_VERSION, gpu=gpu.id, gemm=gemm)


def _borrow(gpu: Gpu, precision: str) -> GemmModel | None:
    """The model of the nearest shipped profile that has the precision and may lend; None: there is none."""
    for donor in sorted(map(find_gpu, shipped_profiles()), key=lambda donor: (*distance(gpu, donor), donor.id)):
        model = read_profile(FOLDER / f"{donor.id}.json").gemm.get(precision)
        if model is not None and (
            model.coefficients.throttle <= HELD_BACK or _peak_per_watt(gpu) >= _peak_per_watt(donor)
        ):
            return model
    return None


@lru_cache(maxsize=16)
def _read(path: Path, _changed_ns: int) -> GpuProfile:
    return parse_profile(path.read_bytes(), str(path))


def read_profile(path: Path) -> GpuProfile:
    """Read and check one profile file. Raises BadInputError or BrokenFileError, naming the file and the cure."""
    try:
        found = path.stat()
    except OSError as error:
        raise BadInputError(f"cannot read profile {path}: {error.strerror}; give an existing file") from error
    if found.st_size > MAX_BYTES:
        raise BrokenFileError(f"profile {path} has {found.st_size} bytes, limit {MAX_BYTES}: is it a profile?")
    try:
        return _read(path, found.st_mtime_ns)
    except OSError as error:
        raise BadInputError(f"cannot read profile {path}: {error.strerror}; give a readable file") from error


def parse_profile(content: bytes, name: str) -> GpuProfile:
    """Decode and check a profile. Raises BrokenFileError naming the place and the cure."""
    cure = "write it anew with `python -m bench fit`"
    profile = decode_versioned(
        content, GpuProfile, f"profile {name}", version=SCHEMA_VERSION, most_bytes=MAX_BYTES, cure=cure
    )
    for precision, model in profile.gemm.items():
        fault = model_fault(model)
        if fault:
            raise BrokenFileError(f"profile {name}: gemm.{precision}.{fault}; {cure}")
    return profile


def profile_bytes(profile: GpuProfile) -> bytes:
    """The file of a profile: one figure per line, an array of numbers on one."""
    text = msgspec.json.format(msgspec.json.encode(profile), indent=1)
    return re.sub(rb'\[[^\[\]{}"]*\]', lambda array: b"".join(array[0].split()), text) + b"\n"


_MAY_BE_ZERO = {"dram_latency_s", "prologue_cycles", "epilogue_cycles", "feed_cycles", "wave_hardness", "reread"}
_MAY_BE_ZERO |= {"split_fixed_s", "split_traffic", "throttle"}


def model_fault(model: GemmModel) -> str | None:
    """What is wrong with the numbers of a model, as far as types cannot say it."""
    numbers: dict[str, Any] = msgspec.structs.asdict(model.coefficients)
    tiles = numbers.pop("tiles")
    for name, value in numbers.items():
        if not math.isfinite(value) or value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
            return f"coefficients.{name} is {value}, which is no positive finite number"
    if not tiles or any(min(tile.m, tile.n) < 1 or not 0 < tile.rate < math.inf for tile in tiles):
        return "coefficients.tiles must hold at least one tile, with positive sizes and rates"
    if model.nearby is not None:
        if not set(model.nearby.axes) <= {"m", "n", "k"}:
            return f"nearby.axes are {', '.join(model.nearby.axes)}; a product has m, n and k"
        if fault := model.nearby.fault():
            return f"nearby: {fault}"
    grid = model.correction
    if grid is None:
        return None
    for axis, nodes in (("n", grid.n), ("k", grid.k), ("m", grid.m)):
        if len(nodes) < 2 or nodes[0] < 1 or any(b <= a for a, b in itertools.pairwise(nodes)):
            return f"correction.{axis} must hold two or more sizes, rising"
    wanted = len(grid.n) * len(grid.k) * len(grid.m)
    if len(grid.log_permille) != wanted:
        return f"correction.log_permille holds {len(grid.log_permille)} values where its axes ask for {wanted}"
    if not 0 < grid.fade_octaves < math.inf:
        return f"correction.fade_octaves is {grid.fade_octaves}, which is no positive finite number"
    return None


def distance(gpu: Gpu, donor: Gpu) -> tuple[int, float, float, float]:
    """How far a donor is: another class of die, then power limits apart, then generations, then balance of facts.

    Data-centre dies (compute capability x.0 up to 10) and graphics dies differ more than generations do: in Tensor
    Core rate per SM, in memory, and in the kernels that libraries ship for them. Among graphics dies the power limit
    decides: L40S (350 W for 366 TFLOP/s) falls far below its peak in long products and RTX PRO 6000 (600 W for 480)
    hardly, so a GeForce, whose Tensor Cores run at half rate, is like the latter.
    """
    datacenter = _is_datacenter(gpu)
    power = 0.0 if datacenter else abs(math.log(_peak_per_watt(gpu) / _peak_per_watt(donor)))
    generations = abs(_generation(gpu.compute_capability) - _generation(donor.compute_capability))
    balance = abs(math.log(_intensity(gpu) / _intensity(donor)))
    return int(datacenter != _is_datacenter(donor)), power, generations, balance


def _is_datacenter(gpu: Gpu) -> bool:
    major, minor = gpu.compute_capability
    return minor in (0, 3) and major <= 10


def _generation(compute_capability: tuple[int, int]) -> float:
    """Pascal 6, Volta 7, Turing 7.5, Ampere 8, Ada 8.9, Hopper 9, Blackwell 10 (data centre) and 12 alike."""
    major, minor = compute_capability
    return min(major, 10) + minor / 10 if major < 10 else 10.0


def _peak(gpu: Gpu) -> float | None:
    return gpu.peak_flops_per_s("fp16") or gpu.peak_flops_per_s("fp32")


def _peak_per_watt(gpu: Gpu) -> float:
    """FLOP/s per watt of the power limit; that of an RTX PRO 6000 where a fact is unknown."""
    peak = _peak(gpu)
    return peak / gpu.tdp_w if peak and gpu.tdp_w else 0.8e12


def _intensity(gpu: Gpu) -> float:
    """FLOP per byte at which arithmetic and memory take equally long; 1 where a fact is unknown."""
    peak = _peak(gpu)
    return peak / gpu.memory_bandwidth_bytes_per_s if peak and gpu.memory_bandwidth_bytes_per_s else 1.0
