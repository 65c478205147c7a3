"""Which shapes are worth measuring: the layers of the catalogue's models, those of public sweeps, sizes at the edges
of tiles and waves. Standard library (and the quantization formulae) only: a machine that measures has no msgspec.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import advisor
from advisor.quantization import ceil_div, largest_size

CATALOGUE = Path(advisor.__file__).parent / "catalogue"
MOST_ROWS = 16384
# Tiles of output that cuBLAS takes for large products on Volta to Blackwell (advisor.kernel_names lists the families).
LIBRARY_TILES = ((256, 128), (128, 256), (128, 128))
# The weight matrices [n, k] of public sweeps over M, so that ours can be held against them.
PUBLIC_LINEARS: dict[tuple[int, int], str] = {
    (4096, 4096): "EleutherAI cookbook, sizing/results: M, N and K swept around 4096",
    (12288, 4096): "NVIDIA aiconfigurator: on A100 one row past M = 256 doubles the time",
    (1024, 1024): "NVIDIA aiconfigurator",
    (2304, 4096): "EleutherAI cookbook, ksweep_high, the other way round: its M is 2304, its N swept",
    (8192, 8192): "NVIDIA aiconfigurator",
    (4096, 16384): "NVIDIA aiconfigurator",
    (2048, 7168): "NVIDIA aiconfigurator",
    (5120, 1024): "NVIDIA aiconfigurator",
    (1760, 1760): "Baidu DeepBench, training: no multiple of 128",
}


@dataclass(frozen=True)
class Linear:
    """A weight matrix w[n, k] of y[m, n] = x[m, k] w[n, k]^T, and who has it."""

    n: int
    k: int
    models: tuple[str, ...] = ()  # of the catalogue
    rows_per_sample: tuple[int, ...] = ()  # m at batch size 1 in each of these models
    source: str = ""  # of a public sweep


@dataclass(frozen=True)
class ConvShape:
    """A forward convolution of one sample: x[c_in, height, width] by c_out filters of c_in / groups."""

    c_in: int
    c_out: int
    height: int
    width: int
    kernel_h: int
    kernel_w: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def out_height(self) -> int:
        """Rows of the output."""
        return (self.height + 2 * self.padding - self.dilation * (self.kernel_h - 1) - 1) // self.stride + 1

    @property
    def out_width(self) -> int:
        """Columns of the output."""
        return (self.width + 2 * self.padding - self.dilation * (self.kernel_w - 1) - 1) // self.stride + 1


@dataclass(frozen=True)
class ConvUse:
    """A distinct convolution of one or more models."""

    shape: ConvShape
    passes: tuple[str, ...]  # those that training runs: the first layer has no "dgrad"
    models: tuple[str, ...] = field(default=())
    count: int = 1  # calls of its forward pass in one step, all models together


@functools.cache
def read_catalogue(name: str) -> Mapping[str, Any]:
    """A model's file as plain data. Raises FileNotFoundError for a model that is not shipped."""
    found: Mapping[str, Any] = json.loads((CATALOGUE / f"{name}.json").read_text(encoding="utf-8"))
    return found


def catalogue_names() -> tuple[str, ...]:
    """Models of the catalogue, in alphabetical order."""
    return tuple(sorted(path.stem for path in CATALOGUE.glob("*.json")))


def training_variant(name: str, precision: str = "amp", layout: str = "nhwc") -> Mapping[str, Any]:
    """The training step of a model, its attention fused where it can be; layout means nothing without images.

    Raises KeyError where the model was not traced so.
    """
    found: list[Mapping[str, Any]] = [
        variant
        for variant in read_catalogue(name)["variants"]
        if (variant["mode"], variant["precision"]) == ("train", precision) and variant["layout"] in (layout, "any")
    ]
    if not found:
        raise KeyError(f"{name} was not traced for training in {precision} {layout}")
    return min(found, key=lambda variant: str(variant["attention"]) == "unfused")


def catalogue_linears(names: Iterable[str] | None = None) -> tuple[Linear, ...]:
    """Every distinct weight matrix that the forward pass of a training step multiplies by; the most shared first."""
    found: dict[tuple[int, int], dict[str, int]] = {}
    for name in catalogue_names() if names is None else names:
        table = read_catalogue(name)["ops"]
        for op in (table[index] for index in training_variant(name)["ops"]):
            if op["kind"] != "gemm" or op["phase"] != "forward":
                continue
            (n, by_n), (k, by_k), (rows, by_rows) = (op["dims"][dim] for dim in "nkm")
            if not (by_n or by_k or rows):
                uses = found.setdefault((n, k), {})
                uses[name] = max(by_rows, uses.get(name, 0))
    linears = [Linear(n, k, tuple(uses), tuple(uses.values())) for (n, k), uses in found.items()]
    return tuple(sorted(linears, key=lambda linear: (-len(linear.models), linear.n, linear.k)))


def all_linears() -> tuple[Linear, ...]:
    """Those of public sweeps, then the catalogue's; each once."""
    of_models = {(linear.n, linear.k): linear for linear in catalogue_linears()}
    public = []
    for (n, k), source in PUBLIC_LINEARS.items():
        known = of_models.pop((n, k), Linear(n, k))
        public.append(Linear(n, k, known.models, known.rows_per_sample, source))
    return (*public, *of_models.values())


def catalogue_convolutions(names: Sequence[str], *, grouped: bool = False) -> tuple[ConvUse, ...]:
    """Every distinct convolution of these models, dense ones or those of several groups; in order of execution.

    A transposed convolution is given as the convolution whose data gradient it is.
    """
    passes: dict[ConvShape, dict[str, None]] = {}
    uses: dict[ConvShape, dict[str, None]] = {}
    counts: dict[ConvShape, int] = {}
    for name in names:
        table = read_catalogue(name)["ops"]
        for op in (table[index] for index in training_variant(name)["ops"]):
            if not op["kind"].startswith("conv_"):
                continue
            shape = _conv_shape({dim: line[0] for dim, line in op["dims"].items()})
            if shape is None or (shape.groups > 1) != grouped:
                continue
            passes.setdefault(shape, {})[_PASSES[op["kind"]]] = None
            uses.setdefault(shape, {})[name] = None
            if op["phase"] == "forward":
                counts[shape] = counts.get(shape, 0) + op.get("count", 1)
    order = tuple(_PASSES.values())
    return tuple(
        ConvUse(shape, tuple(p for p in order if p in found), tuple(uses[shape]), counts.get(shape, 0))
        for shape, found in passes.items()
    )


_PASSES = {"conv_fprop": "forward", "conv_dgrad": "dgrad", "conv_wgrad": "wgrad"}


def _conv_shape(dims: Mapping[str, int]) -> ConvShape | None:
    """None for what a case cannot say: another stride, padding or dilation in each direction, or three of them."""
    pairs = ("stride", "pad", "dilation")
    if "depth" in dims or any(dims[f"{name}_h"] != dims[f"{name}_w"] for name in pairs):
        return None
    return ConvShape(
        c_in=dims["c"], c_out=dims["k"], height=dims["h"], width=dims["w"], kernel_h=dims["r"], kernel_w=dims["s"],
        stride=dims["stride_h"], padding=dims["pad_h"], dilation=dims["dilation_h"], groups=dims["groups"],
    )  # fmt: skip


# Sizes of M ----------------------------------------------------------------------------------------------------------


def base_rows(most: int = MOST_ROWS) -> tuple[int, ...]:
    """16 to `most`, two sizes per octave: 16, 24, 32, 48, 64, 96 ..."""
    sizes = (size * 2**octave for octave in range(most.bit_length()) for size in (16, 24))
    return tuple(sorted(size for size in sizes if size <= most))


def wave_boundaries(
    n: int, sms: int, *, tiles: Sequence[tuple[int, int]] = LIBRARY_TILES, most: int = MOST_ROWS
) -> tuple[int, ...]:
    """Rows M that still fit a whole number of waves, one CTA per SM, for any of the tiles; one row more starts another.

    On A100's 108 SMs with n = 12288 and tiles of 256x128: 96 tiles across, so one row of tiles per wave, 256 rows.
    """
    found: set[int] = set()
    for tile_m, tile_n in tiles:
        across, wave, rows = ceil_div(n, tile_n), 0, 0
        while rows <= most:
            wave += 1
            rows = largest_size(wave, sms, across, tile_m)
            if 0 < rows <= most:
                found.add(rows)
    return tuple(sorted(found))


def fine_rows(n: int, sms: int | None, *, most: int = MOST_ROWS, waves: int = 4) -> tuple[int, ...]:
    """M for a fine sweep: the base sizes, one past each tile edge, each wave boundary and one past it.

    Near the boundaries of the first waves, where a further wave weighs most, every 8 rows from 16 below to 16 above.
    """
    rows = set(base_rows(most)) | {size + 1 for size in (16, 32, 64, 128, 256)}
    if sms is not None:
        for tile in LIBRARY_TILES:
            boundaries = wave_boundaries(n, sms, tiles=(tile,), most=most)
            rows |= {boundary + past for boundary in boundaries for past in (0, 1)}
            rows |= {boundary + near for boundary in boundaries[:waves] for near in (-16, -8, 8, 16)}
    return tuple(sorted(row for row in rows if 16 <= row <= most))


# Memory of a step ----------------------------------------------------------------------------------------------------


def training_bytes(name: str, batch: int, *, optimizer: str, precision: str = "amp", layout: str = "nhwc") -> int:
    """Least bytes of device memory that tensors of a training step need at once: a plain bound from the catalogue.

    FP32 weights, the optimizer's state, buffers, and the traced live peak with gradients; no workspaces, no context.
    """
    model, variant = read_catalogue(name), training_variant(name, precision, layout)
    trainable = 4 * model["trainable_parameters"]
    state = {"sgd": 1, "adamw": 2}[optimizer] * trainable
    live = max(a + b * batch for a, b in variant.get("live_with_gradients") or variant["live"])
    in_update = trainable * (2 if optimizer == "adamw" else 1)  # gradients, and AdamW's square roots of all moments
    return int(4 * model["parameters"] + model["buffer_bytes"] + state + max(live, in_update))


@dataclass(frozen=True)
class StepWork:
    """What forward and backward of one training step do, as traced."""

    flops: int
    read_bytes: int
    write_bytes: int
    launches: int  # CUDA kernels in eager mode


def training_work(name: str, batch: int, *, precision: str = "amp", layout: str = "nhwc") -> StepWork:
    """Sums over the operations of the catalogue's entry at this batch size; the optimizer is not among them."""
    table, variant = read_catalogue(name)["ops"], training_variant(name, precision, layout)
    ops = [table[index] for index in variant["ops"]]

    def total(quantity: str) -> int:
        lines = ((op.get(quantity, (0, 0)), op.get("count", 1)) for op in ops)
        return sum(count * (a + b * batch) for (a, b), count in lines)

    launches = sum(op.get("kernels", 1) * op.get("count", 1) for op in ops)
    return StepWork(total("flops"), total("read_bytes"), total("write_bytes"), launches)
