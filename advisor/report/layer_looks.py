"""Layers of a step as reports name and draw them."""

from __future__ import annotations

from dataclasses import dataclass

from advisor.plots.canvas import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from advisor.profiling.output.text import LONGEST_READ, clean
from advisor.report.records import Tone
from advisor.steptime import LayerCost


@dataclass(frozen=True)
class Look:
    """Colour and marker of a class of operations, in pictures and in interactive figures."""

    colour: str
    marker: str
    tone: Tone
    symbol: str


LOOKS = {  # told apart without colour too
    "gemm": Look(BLUE, "o", "blue", "circle"),
    "fprop": Look(VERMILION, "^", "vermilion", "triangle-up"),
    "dgrad": Look(ORANGE, "v", "orange", "triangle-down"),
    "wgrad": Look(PURPLE, "s", "purple", "square"),
    "attention": Look(GREEN, "P", "green", "cross"),
    "normalisation": Look(SKY, "D", "sky", "diamond"),
    "elementwise, other": Look(GREY, "x", "grey", "x"),
}


def layer_class(layer: LayerCost) -> str:
    """The key of LOOKS that an operation belongs to."""
    if layer.op in ("fprop", "dgrad", "wgrad"):
        return layer.op
    if layer.op.endswith("gemm"):
        return "gemm"
    if layer.op.startswith("attention") or layer.op.endswith("bmm"):
        return "attention"
    return "normalisation" if layer.op.startswith(("batch norm", "norm")) else "elementwise, other"


def short_name(layer: LayerCost, most: int) -> str:
    """A layer's name in at most `most` characters: whole, or the end of its path, which tells most, and how many more.

    >>> # "bert.encoder.layer.0.intermediate.dense and 11 more" in 24: "..intermediate.dense +11"
    """
    name = clean(layer.layer, LONGEST_READ)
    if len(name) <= most:
        return name
    path, and_, more = name.partition(" and ")
    tail = f" +{more.removesuffix(' more')}" if and_ else ""
    room = max(4, most - len(tail))
    if len(path) > room:
        kept = path[-(room - 2) :]
        at_dot = kept.find(".")
        path = ".." + (kept[at_dot + 1 :] if 0 <= at_dot < len(kept) - 4 else kept)
    return path + tail


def operation(layer: LayerCost, most: int = 34) -> str:
    """One line for a layer: its short name, its pass, of a matrix product the sizes; or the class that is summed up."""
    if layer.layer == "all":
        return layer.op if layer.op == "optimizer" else f"all {layer.op}"
    told = layer.op
    if layer_class(layer) == "gemm":
        told = f"{told.removesuffix(' gemm')} {layer.m}x{layer.n}x{layer.k}"
    return f"{short_name(layer, most - len(told) - 2)}, {told}"


def tile_text(layer: LayerCost) -> str:
    """ "256x128", "256x128/4" with its contraction split in four, "" where there is no tile."""
    if not layer.tile_m:
        return ""
    split = f"/{layer.split_k}" if layer.split_k > 1 else ""
    return f"{layer.tile_m}x{layer.tile_n}{split}"
