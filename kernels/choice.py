"""Which of some configurations suits a matrix product where nothing was measured: by tiles and waves.

The rule ranks; it predicts no time. `bench.tune` replaces it by measuring. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

_Config = TypeVar("_Config")  # has tile_m, tile_n, tile_k and split_k; perhaps a variant

# Multiply-adds per clock and SM: of the Tensor Cores in FP16 with FP32 accumulation at the full rate; before 8.0 half
# the FP32 units' FLOP, as Triton uses no Tensor Cores there. A test holds them to `advisor.gpus.architectures`.
FMA_PER_CLOCK = {
    (7, 0): 64, (7, 5): 64, (8, 0): 1024, (8, 6): 512, (8, 9): 512, (9, 0): 2048, (10, 0): 4096, (12, 0): 512,
}  # fmt: skip
ARCHITECTURES = tuple(FMA_PER_CLOCK)  # those that the shipped configurations are checked on
_SAME_AS = {(7, 2): (7, 0), (8, 7): (8, 0), (10, 3): (10, 0), (12, 1): (12, 0)}

# Assumed, for all architectures alike: good enough to tell tiles apart.
LOAD_BYTES_PER_CLOCK = 48  # of one SM from L2: A100's 5120 B per clock for 108 SMs (NVIDIA A100 whitepaper, 2020)
FILL_CLOCKS = 1000  # from a CTA's start to its first product, and its end: about two trips to memory
LAUNCH_CLOCKS = 4000  # of the kernel that adds up the slices of split-K: about two microseconds
SPLITS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Curated(Generic[_Config]):
    """One shipped configuration."""

    config: _Config
    reason: str
    unaligned: bool = False  # also spills nothing for sizes that are no multiples of 8


def nearest_architecture(capability: tuple[int, int]) -> tuple[int, int]:
    """The checked architecture that stands for this one: itself, one of its kind, or the last before it.

    Raises ValueError before 7.0.
    """
    if capability < ARCHITECTURES[0]:
        raise ValueError(f"compute capability {capability[0]}.{capability[1]}: Triton's kernels need 7.0 or later")
    known = _SAME_AS.get(capability, capability)
    return known if known in ARCHITECTURES else max(c for c in ARCHITECTURES if c <= capability)


def estimated_clocks(config: Any, m: int, n: int, k: int, *, sms: int, capability: tuple[int, int]) -> float:
    """Clocks of C[m, n] = A[m, k] B[k, n] in one configuration, by tiles and waves. To rank, not to predict.

    An SM works off up to ceil(tiles / SMs) tiles; a K step of a tile takes what its products or its loads take,
    whichever is longer; the fill of a tile and its store come on top, the fill once only in a persistent kernel.
    Split-K adds a second launch that reads FP32 partial sums. How many CTAs an SM holds does not matter here: they
    share its rates.
    """
    tile_m, tile_n, tile_k, split_k = int(config.tile_m), int(config.tile_n), int(config.tile_k), int(config.split_k)
    rounds = _ceil_div(_ceil_div(m, tile_m) * _ceil_div(n, tile_n) * split_k, sms)
    longest_k = _ceil_div(_ceil_div(k, tile_k), split_k) * tile_k
    products = tile_m * tile_n / FMA_PER_CLOCK[nearest_architecture(capability)]
    loads = 2 * (tile_m + tile_n) / LOAD_BYTES_PER_CLOCK
    store = (4 if split_k > 1 else 2) * tile_m * tile_n / LOAD_BYTES_PER_CLOCK
    fills = 1 if getattr(config, "variant", "plain") != "plain" else rounds
    clocks = rounds * (longest_k * max(products, loads) + store) + fills * FILL_CLOCKS
    if split_k > 1:
        clocks += LAUNCH_CLOCKS + 4 * split_k * m * n / (sms * LOAD_BYTES_PER_CLOCK)
    return clocks


def with_splits(configs: Iterable[_Config], k: int) -> list[_Config]:
    """The configurations, those of split-K with every number of slices that leaves each at least two steps of K.

    One slice is always among them.
    """
    found: dict[_Config, None] = {}
    for config in configs:
        at: Any = config
        if at.split_k == 1:
            found[config] = None
        else:
            found |= dict.fromkeys(replace(at, split_k=s) for s in SPLITS if s == 1 or s * 2 * at.tile_k <= k)
    return list(found)


def ranked(
    configs: Iterable[_Config], m: int, n: int, k: int, *, sms: int, capability: tuple[int, int]
) -> list[_Config]:
    """The configurations with their splits, the least `estimated_clocks` first; equal ones in the order given."""
    return sorted(
        with_splits(configs, k), key=lambda config: estimated_clocks(config, m, n, k, sms=sms, capability=capability)
    )


def usable(curated: Sequence[Curated[_Config]], *, aligned: bool = True, descriptors: bool = True) -> list[_Config]:
    """Configurations for operands: aligned to 16 bytes or not, addressable by tensor descriptors or not."""
    return [
        entry.config
        for entry in curated
        if (aligned or entry.unaligned)
        and ((aligned and descriptors) or getattr(entry.config, "variant", "plain") != "descriptor")
    ]


def _ceil_div(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
