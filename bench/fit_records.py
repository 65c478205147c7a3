"""Records of one card to its profile: `python -m bench fit --records FILE`.

Each part is fitted to its own rows and carries its error on rows that fit has not seen: products by (n, k),
convolutions by layer, memory-bound operations by operator, whole steps by model. A part with too few rows is left
out, and said.
"""

from __future__ import annotations

import datetime
import math
import re
import statistics
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from advisor.errors import AdvisorError, BadInputError, NoGpuError
from advisor.gpus import Gpu, ResolvedGpu, find_gpu, resolve_gpu
from advisor.gpus.card import card_key
from advisor.gpus.nvml import Device
from advisor.gpus.resolve import gpu_from_device
from advisor.measured import (
    SCHEMA_VERSION,
    STEP_FACTORS,
    BandwidthModel,
    Ceilings,
    Conditions,
    ConvolutionModel,
    MeasuredProfile,
    MemoryUse,
    StepFactor,
    TunedProduct,
    gpu_profile_of,
    own_values,
    step_profile_of,
)
from advisor.memory import memory_curve
from advisor.profile import FOLDER, Error, GemmModel, distance, read_profile, shipped_profiles
from advisor.recipe import Recipe, make_recipe
from advisor.step_costs import LAYOUT_CLASSES, LAYOUTS, Machine, at, coefficients, depthwise_seconds
from advisor.step_ops import MEMORY_CLASSES, step_ops
from advisor.step_profile import load_step_profile
from advisor.steptime import SMALLEST_L2_BYTES, StepModel, machine
from advisor.workload.catalogue import load_workload
from advisor.workload.schema import Variant
from bench.campaign import SUFFIX
from bench.case import METHOD_VERSION, Case, Mode
from bench.exchange import Archive, read_archive
from bench.fit import error_of, fit_table, rounded
from bench.fit_convolution import (
    CUDA_CORE_TILE_EXPONENT,
    Convolutions,
    convolution_op,
    convolutions,
    fit_convolutions,
    held_out_convolutions,
    layer_name,
)
from bench.fit_few import FOLDS, fit_few, held_out_few
from bench.fit_gemm import Timings
from bench.gemm_data import Table
from bench.quality import warnings_of
from bench.records import Row, conditions
from bench.telemetry import median_during

Floats = NDArray[np.float64]

LEAST_GEMMS, LEAST_CONVOLUTIONS = 40, 20
LEAST_STEPS, LEAST_MODELS = 5, 2  # the first tier of suite train has five, each of another model
LEAST_DEPTHWISE = 6  # of one layout
MANY_GEMMS = 2000  # from which the grid of a full sweep is fitted as the public tables are
CALIBRATION = 400  # rows up to which a profile is called a calibration
LEAST_COPY_BYTES = 2**26  # of a copy that measures DRAM, not L2
DRIFT = "drift"  # the session's note of a run whose reference changed
PRECISIONS = {"fp16": ("fp16", "bf16"), "fp32": ("fp32",)}  # section: dtypes, the first that was measured is taken


@dataclass(frozen=True)
class Measurements:
    """One card's measurements, one time per case: the median over its rows."""

    gpu: Gpu
    conditions: Conditions
    origin: str
    times: Sequence[tuple[Case, float]]
    facts: Sequence[tuple[Case, Mapping[str, Any]]]

    def of(self, kind: str, **wanted: object) -> list[tuple[Mapping[str, Any], float]]:
        """Parameters and seconds of the cases of one kind whose parameters are as wanted; absent ones do not count."""
        found = [(case.params, time_s) for case, time_s in self.times if case.kind == kind]
        return [(p, t) for p, t in found if all(p.get(name, value) == value for name, value in wanted.items())]


def read_measurements(path: Path, card: str | None = None, *, latest: bool = False) -> Measurements:
    """The measurements of one card in a records file, an export, or a campaign's folder of exports.

    card: the start of its name, UUID or key.
    latest: only what was measured under the conditions of the last run on a GPU: the same card, driver and libraries.
    Raises BadInputError where they are of a processor, of several cards or of several ways of timing, or are none.
    """
    archive = read_campaign(path) if path.is_dir() else read_archive(path)
    drifted = [note.run for note in archive.notes if note.kind == DRIFT]
    rows = archive.rows
    on_gpu = [row for row in rows if row.environment.get("device") == "cuda"]
    if latest and on_gpu:
        now = conditions(on_gpu[-1].environment)
        rows = tuple(row for row in on_gpu if conditions(row.environment) == now)
    return measurements_of(rows, str(path), card=card, drifted=drifted)


def read_campaign(folder: Path) -> Archive:
    """The exports that `python -m bench campaign` left in a folder, one per suite, as one; rows as they were taken."""
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files:
        raise BadInputError(f"{folder} holds no *{SUFFIX}, as a campaign leaves: name its folder, or a records file")
    archives = [read_archive(file) for file in files]
    runs = {run.id: run for archive in archives for run in archive.runs}
    rows = sorted((row for archive in archives for row in archive.rows), key=lambda row: row.measured_at)
    return Archive(tuple(runs.values()), tuple(rows), tuple(note for archive in archives for note in archive.notes))


def measurements_of(
    rows: Iterable[Row], name: str, *, card: str | None = None, drifted: Iterable[str] = ()
) -> Measurements:
    """As `read_measurements`, of rows at hand; `drifted` names the runs that a note marks."""
    good = [row for row in rows if row.result.status == "ok" and row.case.kind != "reference"]
    if not good:
        raise BadInputError(f"{name} holds no measured case: run `advisor bench --quick` on the card first")
    if all(row.environment.get("device") != "cuda" for row in good):
        raise BadInputError(f"{name} was measured on a processor (a smoke run): measure on a GPU with `advisor bench`")
    good = [row for row in good if row.environment.get("device") == "cuda"]
    if card is not None:
        good = [row for row in good if _is_card(row.environment, card)]
        if not good:
            raise BadInputError(f"{name} holds no card {card!r}: give the start of its name or key")
    cards = sorted({(str(row.environment.get("gpu_name")), _key(row.environment)) for row in good})
    if len(cards) > 1:
        listed = ", ".join(f"{gpu} ({key})" for gpu, key in cards)
        raise BadInputError(f"{name} holds {len(cards)} cards: {listed}; choose one with --card")
    methods = sorted({int(row.environment.get("method_version", 0)) for row in good})
    if methods != [METHOD_VERSION]:
        found = ", ".join(map(str, methods))
        raise BadInputError(
            f"{name} was timed by method {found}, this is {METHOD_VERSION}: times of other methods do not compare; "
            "measure anew into another file"
        )
    environment = good[-1].environment
    gpu = gpu_of(environment, name)
    conditions = _conditions(gpu, environment, good, set(drifted))
    by_key: dict[str, list[Row]] = defaultdict(list)
    for row in good:
        by_key[row.case.key].append(row)
    times = []
    for same in by_key.values():
        medians = [r.result.timing.median_s for r in same if r.result.timing and not r.result.timing.host_bound]
        if medians:
            times.append((same[-1].case, statistics.median(medians)))
    facts = [(same[-1].case, same[-1].result.facts) for same in by_key.values()]
    replayed = environment.get("replay_of")
    origin = f"replayed: {replayed}" if replayed else "measured by advisor bench on this card"
    return Measurements(gpu, conditions, origin, times, facts)


def _key(environment: Mapping[str, Any]) -> str:
    return card_key(str(environment.get("gpu_uuid")))


def _is_card(environment: Mapping[str, Any], card: str) -> bool:
    names = (str(environment.get("gpu_name")), str(environment.get("gpu_uuid")), _key(environment))
    return any(name.lower().startswith(card.lower()) for name in names)


def gpu_of(environment: Mapping[str, Any], name: str) -> Gpu:
    """The facts of the card, or MIG slice, that was measured: its driver's where it is the one in this machine, as
    predictions for it take them; else the table's, and what its driver said while measuring.

    Raises BadInputError for a card that is not here and that no table holds: coefficients are shares of its bandwidth.
    """
    here = _local_gpu()
    if here is not None and here.uuid is not None and card_key(here.uuid) == _key(environment):
        return here.gpu
    gpu_name = str(environment.get("gpu_name"))
    whole = re.sub(r" MIG .*", "", gpu_name)
    gpu = find_gpu(whole)
    told = environment.get("capability")
    if told is not None and told != ".".join(map(str, gpu.compute_capability)):
        raise BadInputError(f"{name}: {gpu.name} with compute capability {told} is none that is known")
    figures = {field: environment[field] for field in ("sms", "memory_bytes", "l2_bytes") if environment.get(field)}
    if whole != gpu_name:
        memory_bytes, uuid = figures.get("memory_bytes"), str(environment.get("gpu_uuid"))
        device = Device(uuid, gpu_name, sms=figures.get("sms"), memory_bytes=memory_bytes)
        gpu = gpu_from_device(device, Device("", whole, memory_bytes=gpu.memory_bytes))
    return replace(gpu, **figures)


def _local_gpu() -> ResolvedGpu | None:
    try:
        return resolve_gpu("local")
    except NoGpuError:
        return None


def _conditions(gpu: Gpu, environment: Mapping[str, Any], rows: Sequence[Row], drifted: set[str]) -> Conditions:
    warnings = warnings_of(rows, drifted)
    for what in ("driver", "torch", "cuda", "cudnn"):
        versions = sorted({str(row.environment.get(what)) for row in rows})
        if len(versions) > 1:
            warnings.append(f"measured with several versions of {what} ({', '.join(versions)}): they differ by 3-8 %")
    clocks = [clock for row in rows if (clock := median_during(row.result.telemetry, "sm_hz")) is not None]
    text = {name: environment.get(name) for name in ("driver", "cuda", "torch", "cudnn", "triton")}
    return Conditions(
        gpu_name=str(environment["gpu_name"]),
        gpu_key=_key(environment),
        compute_capability=gpu.compute_capability,
        sms=gpu.sms,
        memory_bytes=gpu.memory_bytes or 0,
        method_version=METHOD_VERSION,
        **{name: None if value is None else str(value) for name, value in text.items()},
        power_limit_w=environment.get("power_limit_w"),
        sm_clock_hz=statistics.median(clocks) if clocks else None,
        warnings=tuple(warnings),
    )


# The parts -----------------------------------------------------------------------------------------------------------


def fit_measurements(
    found: Measurements, *, fitted: str | None = None, without: frozenset[str] = frozenset(), judge: bool = True
) -> tuple[MeasuredProfile, list[str]]:
    """The profile of the measurements, and one line for each part that they are too few for.

    `without`: ids of GPUs whose shipped profiles are taken not to exist, as where a fit is judged. `judge`: False
    spares the fits by which the errors are known; they say so then.
    Raises BadInputError where there are too few rows for any part.
    """
    fitted = fitted or datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    missing: list[str] = []
    gemm = {}
    for section, dtypes in PRECISIONS.items():
        if (model := _gemm_model(found, section, dtypes, fitted, without, missing, judge=judge)) is not None:
            gemm[section] = model
    profile = MeasuredProfile(
        schema_version=SCHEMA_VERSION,
        gpu=found.gpu.id,
        fitted=fitted,
        extent="quick" if len(found.times) <= CALIBRATION else "full",
        conditions=found.conditions,
        gemm=gemm,
        ceilings=_ceilings(found),
        tuned=_tuned(found),
    )
    profile = msgspec.structs.replace(profile, convolutions=_convolution_models(found, profile, missing, judge=judge))
    profile = msgspec.structs.replace(profile, bandwidths=_bandwidths(found))
    profile = msgspec.structs.replace(profile, memory=_memory(found))
    profile = msgspec.structs.replace(profile, steps=_steps(found, profile, missing))
    parts = (profile.gemm, profile.convolutions, profile.bandwidths, profile.memory, profile.steps, profile.tuned)
    if not any(parts) and profile.ceilings == Ceilings():
        raise BadInputError(f"too few rows to fit: {'; '.join(missing)}")
    return profile, missing


def nearest_model(gpu: Gpu, section: str, without: frozenset[str]) -> GemmModel | None:
    """The shipped model that knows most of the GPU: its own, else the nearest other's; None: there is none."""
    lenders = [find_gpu(name) for name in shipped_profiles() if name not in without]
    for lender in sorted(lenders, key=lambda lender: (lender.id != gpu.id, *distance(gpu, lender), lender.id)):
        model = read_profile(FOLDER / f"{lender.id}.json").gemm.get(section)
        if model is not None:
            return model
    return None


def _gemm_model(
    found: Measurements, section: str, dtypes: Sequence[str], fitted: str, without: frozenset[str], missing: list[str],
    *, judge: bool,
) -> GemmModel | None:  # fmt: skip
    rows = gemm_timings(found, dtypes)
    if len(rows) < LEAST_GEMMS:
        if section == "fp16" or len(rows):
            missing.append(
                f"{len(rows)} {section.upper()} products where {LEAST_GEMMS} are the least: run `advisor bench --quick`"
            )
        return None
    table = as_table(rows) if len(rows) >= MANY_GEMMS and section == "fp16" else None
    if table is not None:
        return msgspec.structs.replace(
            fit_table(table, found.gpu), kind="measured", origin=found.origin, fitted=fitted, note=None
        )
    donor = nearest_model(found.gpu, section, without)
    fit = fit_few(rows, found.gpu, donor, precision=section)
    error = NOT_JUDGED
    if judge:
        ratio = held_out_few(rows, found.gpu, donor, precision=section)
        error = error_of(ratio, f"(n, k) pairs of {len(rows)} products left out by folds of crc32 % {FOLDS}")
    return GemmModel(
        gpu=found.gpu.id,
        kind="measured",
        origin=found.origin,
        rows=len(rows),
        fitted=fitted,
        coefficients=rounded(fit.coefficients),
        held_out=error,
        correction=fit.correction,
        nearby=fit.nearby,
    )


NOT_JUDGED = Error(mean=0.0, median=0.0, p90=0.0, rows=0, what="not judged")


def gemm_timings(found: Measurements, dtypes: Sequence[str], mode: Mode = "cold") -> Timings:
    """Forward products by cuBLAS, in the first of the dtypes that was measured."""
    for dtype in dtypes:
        cases = found.of("gemm", dtype=dtype, library="cublas", mode=mode, **{"pass": "forward"})
        if cases:
            m, n, k = (np.array([float(params[name]) for params, _ in cases]) for name in ("m", "n", "k"))
            return Timings(m, n, k, np.array([time_s for _, time_s in cases]), np.ones(len(cases)))
    empty = np.zeros(0)
    return Timings(empty, empty, empty, empty, empty)


def as_table(rows: Timings) -> Table | None:
    """The rows as a grid of m by (n, k) pairs; None where they do not fill one."""
    m, pairs = np.unique(rows.m), np.unique(np.column_stack([rows.n, rows.k]), axis=0)
    if len(m) * len(pairs) != len(rows):
        return None
    width = pairs[:, 1].max() + 1
    column = np.searchsorted(pairs[:, 0] * width + pairs[:, 1], rows.n * width + rows.k)
    grid = np.full((len(m), len(pairs)), np.nan)
    grid[np.searchsorted(m, rows.m), column] = rows.time_s
    return None if np.isnan(grid).any() else Table(m, pairs, grid, np.empty((0, *grid.shape)))


def convolution_machine(gpu: Gpu, section: str) -> Machine:
    """The facts that shares of convolutions are of."""
    return machine(gpu, make_recipe(precision=section))


def convolution_prior(found: Measurements, profile: MeasuredProfile, section: str) -> dict[str, float]:
    """What the card would be taken to do before any of its convolutions was measured."""
    own = own_values(load_step_profile().train, found.gpu, gpu_profile_of(profile, found.gpu), section)
    if section == "fp32":
        own["tile_exponent"] = CUDA_CORE_TILE_EXPONENT
    return own if profile.ceilings.kernel_s is None else {**own, "kernel_s": profile.ceilings.kernel_s}


def convolution_rows(found: Measurements, dtypes: Sequence[str]) -> Convolutions | None:
    """Dense convolutions by cuDNN with its algorithms tried out, in the first of the dtypes that was measured."""
    for dtype in dtypes:
        cases = found.of("conv", dtype=dtype, library="cudnn", groups=1, autotuned=True, mode="cold")
        if cases:
            return convolutions([params for params, _ in cases], [time_s for _, time_s in cases])
    return None


def _convolution_models(
    found: Measurements, profile: MeasuredProfile, missing: list[str], *, judge: bool
) -> dict[str, ConvolutionModel]:
    models = {}
    for section, dtypes in PRECISIONS.items():
        rows = convolution_rows(found, dtypes)
        count = 0 if rows is None else len(rows)
        if rows is None or count < LEAST_CONVOLUTIONS:
            if section == "fp16" or count:
                missing.append(
                    f"{count} {section.upper()} convolutions where {LEAST_CONVOLUTIONS} are the least: "
                    "run `advisor bench --quick`"
                )
            continue
        prior, facts = convolution_prior(found, profile, section), convolution_machine(found.gpu, section)
        known = profile.ceilings.kernel_s is not None
        fit = fit_convolutions(rows, prior, facts, launch_known=known)
        error, passes = NOT_JUDGED, {}
        if judge:
            ratio = held_out_convolutions(rows, prior, facts, launch_known=known)
            what = f"layers of {count} convolutions left out by folds of crc32 % {FOLDS}"
            error = error_of(ratio, what)
            for i, pass_ in enumerate(("fprop", "dgrad", "wgrad")):
                if (mine := rows.products.kind == i).any():
                    passes[pass_] = error_of(ratio[mine], what)
        models[section] = ConvolutionModel(
            rows=count, values=fit.values, held_out=error, passes=passes, nearby=fit.nearby
        )
    return models


def _bandwidths(found: Measurements) -> BandwidthModel | None:
    """Shares of the stated bandwidth by class, the median over operators and sizes, depthwise convolutions among them.

    None: nothing was measured.
    """
    bandwidth = found.gpu.memory_bandwidth_bytes_per_s
    cases = found.of("memory", mode="cold")
    if bandwidth is None:
        return None
    base = load_step_profile().train
    kernel_s = _ceilings(found).kernel_s or base["kernel_s"]
    cache = found.gpu.l2_bytes or SMALLEST_L2_BYTES
    shares: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for params, time_s in cases:
        op, moved = str(params["op"]), float(params["bytes"])
        name = "optimizer.bandwidth" if op.startswith("optimizer_") else op
        if name not in (*MEMORY_CLASSES, "optimizer.bandwidth") or time_s <= 2 * kernel_s or moved <= cache:
            continue  # latency-bound, or from L2: no share of the bandwidth
        if name in LAYOUT_CLASSES and params.get("layout") in ("nhwc", "nchw"):
            name = f"{params['layout']}.{name}"
        shares[name].append((str(params.get("detail")), moved / (bandwidth * (time_s - kernel_s))))
    depthwise = _depthwise_shares(found, base, kernel_s, cache)
    shares |= depthwise
    if not shares:
        return None
    ratios: list[float] = []
    for of_class in shares.values():
        for detail, share in of_class:
            others = [s for other, s in of_class if _fold(other) != _fold(detail)]
            if others:
                ratios.append(math.log(share / statistics.median(others)))
    values = {name: float(f"{statistics.median([s for _, s in known]):.4g}") for name, known in sorted(shares.items())}
    for layout in depthwise:  # a share of what the shipped coefficients say: of the traffic's and of the taps' alike
        share = values.pop(layout)
        values |= {name: float(f"{share * base[name]:.4g}") for name in (f"{layout}.bandwidth", f"{layout}.rate")}
    error = NOT_JUDGED
    if ratios:
        error = error_of(np.array(ratios), f"operators and layers left out by folds of crc32 % {FOLDS}")
    return BandwidthModel(rows=sum(map(len, shares.values())), values=values, held_out=error)


def _depthwise_shares(
    found: Measurements, base: Mapping[str, float], kernel_s: float, cache_bytes: int
) -> dict[str, list[tuple[str, float]]]:
    """Shipped over measured seconds of depthwise convolutions, with their layers, by layout as "nhwc.depthwise"."""
    facts, shares = machine(found.gpu, make_recipe()), {}
    for i, layout in enumerate(LAYOUTS):
        cases = found.of("conv", library="cudnn", autotuned=True, mode="cold", layout=layout, dtype="fp16")
        cases = [(params, time_s) for params, time_s in cases if params["groups"] == params["c_in"] > 1]
        operations = tuple(convolution_op(params) for params, _ in cases)
        ops = step_ops(Variant("train", "amp", layout, "none", operations, ()))
        moved = at(ops.bytes_, 1.0)[ops.depthwise.index]
        shipped_s = depthwise_seconds(ops.depthwise, moved, 1.0, i, coefficients(base), facts)[:, 0]
        known = [
            (layer_name(cases[j][0]), float(s / (cases[j][1] - kernel_s)))
            for j, s, size in zip(ops.depthwise.index, shipped_s, moved[:, 0], strict=True)
            if cases[j][1] > 2 * kernel_s and size > cache_bytes
        ]
        if len(known) >= LEAST_DEPTHWISE:
            shares[f"{layout}.depthwise"] = known
    return shares


def _fold(name: str) -> int:
    return zlib.crc32(name.encode()) % FOLDS


def _ceilings(found: Measurements) -> Ceilings:
    copies = [float(p["bytes"]) / t for p, t in found.of("copy") if float(p["bytes"]) >= LEAST_COPY_BYTES]
    peaks: dict[str, float] = {}
    for params, time_s in found.of("matmul_peak"):
        rate = 2 * float(params["n"]) ** 3 / time_s
        peaks[str(params["dtype"])] = max(rate, peaks.get(str(params["dtype"]), 0.0))
    graph = [time_s for _, time_s in found.of("launch", what="graph")]
    host = [
        float(facts["host_s_per_launch"])
        for case, facts in found.facts
        if case.kind == "launch" and case.params.get("what") == "stream" and facts.get("host_s_per_launch")
    ]
    in_steps = {  # equal at every batch size of a model, where the launches are the same
        str(params["model"]): float(facts["host_s_per_launch"])
        for params, _, _, facts in _train_rows(found)
        if facts.get("host_s_per_launch")
    }
    return Ceilings(
        copy_bytes_per_s=max(copies, default=None),
        matmul_flops_per_s=peaks,
        host_s=min(host, default=None),
        step_host_s=statistics.median(in_steps.values()) if in_steps else None,
        kernel_s=min(graph, default=None),
    )


def _train_rows(found: Measurements) -> list[tuple[Mapping[str, Any], Recipe, float | None, Mapping[str, Any]]]:
    """AMP steps that ran with cuDNN's algorithms tried out, as the recipe has it: parameters, recipe, seconds, facts.

    Its heuristic takes other algorithms, slower and with less workspace: those steps say nothing of the recipe's.
    """
    times = {case.key: time_s for case, time_s in found.times}
    rows = []
    for case, facts in found.facts:
        usual = case.params.get("precision") == "amp_fp16" and case.params.get("cudnn_benchmark", True)
        if case.kind == "train" and usual:
            layout = case.params["layout"] if case.params["layout"] != "any" else None
            recipe = make_recipe(layout=layout, optimizer=case.params["optimizer"])
            rows.append((case.params, recipe, times.get(case.key), facts))
    return rows


def _steps(found: Measurements, profile: MeasuredProfile, missing: list[str]) -> StepFactor | None:
    """What measured steps take over those predicted from the parts: the median model's, judged model by model."""
    rows = [(params, recipe, time_s) for params, recipe, time_s, _ in _train_rows(found) if time_s is not None]
    if len(rows) < LEAST_STEPS:
        if rows:
            missing.append(
                f"{len(rows)} training steps with cuDNN's algorithms tried out where {LEAST_STEPS} are the least: "
                "run `advisor bench --suite train`"
            )
        return None
    step_profile = step_profile_of(profile, found.gpu, "fp16")
    gemm = gpu_profile_of(profile, found.gpu)
    models, ratios = [], []
    for params, recipe, time_s in rows:
        try:
            workload = load_workload(str(params["model"]))
            model = StepModel(workload, gpu=found.gpu, profile=gemm, recipe=recipe, step_profile=step_profile)
        except AdvisorError:  # no model of the catalogue, or no such variant of it
            continue
        models.append(str(params["model"]))
        ratios.append(np.log(time_s / model.curve(np.array([params["batch"]])).time_s[0]))
    if len(ratios) < LEAST_STEPS:
        missing.append(f"{len(ratios)} training steps of the catalogue's models where {LEAST_STEPS} are the least")
        return None
    log_ratio, names = np.array(ratios), np.array(models)
    low, high = np.log(STEP_FACTORS)
    distinct = np.unique(names)
    if len(distinct) < LEAST_MODELS:
        missing.append(f"training steps of {distinct[0]} alone say nothing of other models: run more of suite train")
        return None
    of_model = np.array([np.median(log_ratio[names == name]) for name in distinct])  # one voice each
    unseen = np.concatenate([
        np.clip(np.median(of_model[distinct != name]), low, high) - log_ratio[names == name] for name in distinct
    ])  # fmt: skip
    factor = float(np.exp(np.clip(np.median(of_model), low, high)))
    what = f"AMP training steps of {len(distinct)} models, each left out in turn"
    return StepFactor(rows=len(ratios), factor=float(f"{factor:.4g}"), held_out=error_of(unseen, what))


def _memory(found: Measurements) -> MemoryUse | None:
    """What training processes held beside their tensors: medians over the steps that ran without a retry."""
    contexts, shares = [], []
    for params, recipe, _, facts in _train_rows(found):
        if facts.get("alloc_retries"):
            continue  # the memory was full: what was reserved is what there was
        if facts.get("context_bytes"):
            contexts.append(int(facts["context_bytes"]))
        if facts.get("reserved_peak_bytes") and facts.get("allocated_peak_bytes"):
            try:
                curve = memory_curve(
                    load_workload(str(params["model"])), gpu=found.gpu, profile=None, recipe=recipe,
                    batches=np.array([params["batch"]]),
                )  # fmt: skip
            except AdvisorError:
                continue
            beyond = float(facts["reserved_peak_bytes"]) - float(facts["allocated_peak_bytes"])
            shares.append(beyond / max(1.0, float(curve.live_peak_bytes[0])))
    if not contexts and not shares:
        return None
    return MemoryUse(
        rows=max(len(contexts), len(shares)),
        context_bytes=int(statistics.median(contexts)) if contexts else None,
        allocator_share=float(f"{max(statistics.median(shares), 1e-4):.4g}") if shares else None,
    )


def _tuned(found: Measurements) -> tuple[TunedProduct, ...]:
    """The fastest configuration of each shape that was tuned."""
    return tuple(
        TunedProduct(
            **{name: int(facts[name]) for name in "mnk"},
            config=dict(facts["timed"][0]["config"]),
            time_s=float(facts["timed"][0]["time_s"]),
            tried=len(facts["timed"]),
        )
        for case, facts in sorted(found.facts, key=lambda entry: entry[0].key)
        if case.kind == "tune" and facts.get("timed")
    )


def summary(profile: MeasuredProfile, missing: Sequence[str], say: Callable[[str], None]) -> None:
    """Tell what was fitted, with its errors on what was not, and what could not be."""
    say(profile.describe())
    parts = [(f"products, {section}", model.rows, model.held_out) for section, model in profile.gemm.items()]
    parts += [
        (f"convolutions, {section}", model.rows, model.held_out) for section, model in profile.convolutions.items()
    ]
    if profile.bandwidths is not None:
        parts.append(("memory-bound operations", profile.bandwidths.rows, profile.bandwidths.held_out))
    if profile.steps is not None:
        parts.append(("training steps", profile.steps.rows, profile.steps.held_out))
    for name, rows, e in parts:
        told = f"unseen mean {100 * e.mean:.1f} %, median {100 * e.median:.1f} %, p90 {100 * e.p90:.1f} %"
        say(f"{name}: {rows} rows; {told if e.rows else 'not judged'} ({e.what})")
    if profile.tuned:
        say(f"our Triton matrix product: the fastest configuration of {len(profile.tuned)} shapes is kept")
    for line in (*profile.conditions.warnings, *missing):
        say(f"note: {line}")
