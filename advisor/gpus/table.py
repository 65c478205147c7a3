"""The GPUs we know. What follows from a compute capability is in `architectures`; here is what one product adds:
its figures in the units data sheets use, its names, and the source of each figure.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from advisor.gpus import documents as doc
from advisor.gpus.architectures import architecture_facts
from advisor.gpus.model import Gpu

# Share of the architecture's Tensor Core rate at which FP16 products accumulate in FP32.
FULL, HALF, QUARTER = 1.0, 0.5, 0.25


class _Card(NamedTuple):
    compute_capability: tuple[int, int]
    sms: int
    memory_gib: float
    cuda_mib: int | None  # what CUDA hands out
    boost_mhz: int
    tensor_mhz: int | None  # where the maker's Tensor Core peak stands on a lower clock
    bandwidth_gb_s: int
    l2_mib: float | None
    tdp_w: int
    tensor_share: float


# fmt: off
_CARDS: dict[str, _Card] = {
    #                                    cc   SMs    GiB CUDA MiB boost tensor GB/s   L2     W
    "a100-sxm4-80gb":           _Card( (8, 0), 108,    80,  81038, 1410, None, 2039,   40,  400, FULL),
    "a100-sxm4-40gb":           _Card( (8, 0), 108,    40,  40441, 1410, None, 1555,   40,  400, FULL),
    "a100-pcie-80gb":           _Card( (8, 0), 108,    80,  81154, 1410, None, 1935,   40,  300, FULL),
    "a100-pcie-40gb":           _Card( (8, 0), 108,    40,  40326, 1410, None, 1555,   40,  250, FULL),
    "h100-sxm-80gb":            _Card( (9, 0), 132,    80,  81082, 1980, 1830, 3350,   50,  700, FULL),
    "h100-pcie":                _Card( (9, 0), 114,    80,  81008, 1755, 1620, 2000,   50,  350, FULL),
    "h100-nvl":                 _Card( (9, 0), 132,    94,  95320, 1785, 1545, 3900, None,  400, FULL),
    "h200-sxm":                 _Card( (9, 0), 132,   141, 143156, 1980, 1830, 4800,   60,  700, FULL),
    "h20":                      _Card( (9, 0),  78,    96,  97285, 1980, 1853, 4000,   60,  400, QUARTER),
    "gh200-96gb":               _Card( (9, 0), 132,    96,   None, 1980, 1830, 4000, None,  700, FULL),
    "b200-sxm":                 _Card((10, 0), 148,   180, 182631, 1965, 1856, 7700,  126, 1000, FULL),
    "gb200":                    _Card((10, 0), 152,   186,   None, 1965, None, 7936, None, 1200, FULL),
    "b300-sxm":                 _Card((10, 3), 148, 268.6,   None, 2032, 1856, 8000,  126, 1100, FULL),
    "v100-sxm2-16gb":           _Card( (7, 0),  80,    16,  16130, 1530, None,  900,    6,  300, FULL),
    "v100-sxm2-32gb":           _Card( (7, 0),  80,    32,  32494, 1530, None,  900,    6,  300, FULL),
    "v100-pcie-16gb":           _Card( (7, 0),  80,    16,  16160, 1380, None,  900,    6,  250, FULL),
    "v100-pcie-32gb":           _Card( (7, 0),  80,    32,  32510, 1380, None,  900,    6,  250, FULL),
    "t4":                       _Card( (7, 5),  40,    16,  14930, 1590, None,  320,    4,   70, FULL),
    "a10":                      _Card( (8, 6),  72,    24,   None, 1695, None,  600,    6,  150, FULL),
    "a10g":                     _Card( (8, 6),  80,    24,  22587, 1710, None,  600,    6,  300, HALF),
    "a30":                      _Card( (8, 0),  56,    24,  24164, 1440, None,  933,   24,  165, FULL),
    "a40":                      _Card( (8, 6),  84,    48,  45416, 1740, None,  696,    6,  300, FULL),
    "l4":                       _Card( (8, 9),  58,    24,  22563, 2040, None,  300,   48,   72, FULL),
    "l40":                      _Card( (8, 9), 142,    48,   None, 2490, None,  864,   96,  300, HALF),
    "l40s":                     _Card( (8, 9), 142,    48,  45495, 2520, None,  864,   96,  350, FULL),
    "rtx-6000-ada":             _Card( (8, 9), 142,    48,  48497, 2505, None,  960,   96,  300, FULL),
    "quadro-rtx-6000":          _Card( (7, 5),  72,    24,   None, 1770, None,  672,    6,  260, FULL),
    "rtx-pro-6000-server":      _Card((12, 0), 188,    96,  97250, 2493, None, 1597,  128,  600, FULL),
    "rtx-pro-6000-workstation": _Card((12, 0), 188,    96,   None, 2617, None, 1792,  128,  600, FULL),
    "rtx-pro-6000-max-q":       _Card((12, 0), 188,    96,   None, 2280, None, 1792,  128,  300, FULL),
    "rtx-a6000":                _Card( (8, 6),  84,    48,  48676, 1800, None,  768,    6,  300, FULL),
    "titan-rtx":                _Card( (7, 5),  72,    24,  24212, 1770, None,  672,    6,  280, FULL),
    "rtx-2080-ti":              _Card( (7, 5),  68,    11,  11009, 1545, None,  616,  5.5,  250, HALF),
    "rtx-3060":                 _Card( (8, 6),  28,    12,  11931, 1777, None,  360,    3,  170, HALF),
    "rtx-3090":                 _Card( (8, 6),  82,    24,  24139, 1695, None,  936,    6,  350, HALF),
    "rtx-4070":                 _Card( (8, 9),  46,    12,  11994, 2475, None,  504,   36,  200, HALF),
    "rtx-4080":                 _Card( (8, 9),  76,    16,   None, 2505, None,  717,   64,  320, HALF),
    "rtx-4090":                 _Card( (8, 9), 128,    24,  24081, 2520, None, 1008,   72,  450, HALF),
    "rtx-5080":                 _Card((12, 0),  84,    16,  15840, 2617, None,  960,   64,  360, HALF),
    "rtx-5090":                 _Card((12, 0), 170,    32,  32102, 2407, None, 1792,   96,  575, HALF),
    "gb10":                     _Card((12, 1),  48,   128,   None, 2418, None,  273,   24,  140, FULL),
    "p100-pcie-16gb":           _Card( (6, 0),  56,    16,  16280, 1297, None,  732,    4,  250, FULL),
    "p4":                       _Card( (6, 1),  20,     8,   None, 1074, None,  192,    2,   75, FULL),
}

# The driver's name; the words that make the model; further words its name may hold. "nvidia", "tesla", "geforce" may
# stand in any. An ambiguous name means the first GPU it fits, so the commonest data-centre variant comes first.
_NAMES: dict[str, tuple[str, str]] = {
    "a100-sxm4-80gb":          ("NVIDIA A100-SXM4-80GB", "a100 | sxm sxm4 80gb hbm2e hgx dgx"),
    "a100-sxm4-40gb":          ("NVIDIA A100-SXM4-40GB", "a100 | sxm sxm4 40gb hbm2 hgx dgx"),
    "a100-pcie-80gb":          ("NVIDIA A100 80GB PCIe", "a100 | pcie 80gb hbm2e"),
    "a100-pcie-40gb":          ("NVIDIA A100-PCIE-40GB", "a100 | pcie 40gb hbm2"),
    "h100-sxm-80gb":           ("NVIDIA H100 80GB HBM3", "h100 | sxm sxm5 80gb hbm3 hgx dgx"),
    "h100-pcie":               ("NVIDIA H100 PCIe", "h100 | pcie 80gb hbm2e"),
    "h100-nvl":                ("NVIDIA H100 NVL", "h100 | nvl pcie 94gb hbm3"),
    "h200-sxm":                ("NVIDIA H200", "h200 | sxm sxm5 141gb hbm3e hgx dgx"),
    "h20":                     ("NVIDIA H20", "h20 | sxm sxm5 96gb hbm3 hgx"),
    "gh200-96gb":              ("NVIDIA GH200 480GB", "gh200 | 480gb 96gb hbm3 grace hopper"),
    "b200-sxm":                ("NVIDIA B200", "b200 | sxm sxm6 180gb 192gb hbm3e hgx dgx"),
    "gb200":                   ("NVIDIA GB200", "gb200 | 186gb hbm3e nvl72 grace blackwell"),
    "b300-sxm":                ("NVIDIA B300 SXM6 AC", "b300 | sxm sxm6 ac 288gb hbm3e hgx dgx"),
    "v100-sxm2-16gb":          ("Tesla V100-SXM2-16GB", "v100 | sxm sxm2 16gb hbm2 dgx"),
    "v100-sxm2-32gb":          ("Tesla V100-SXM2-32GB", "v100 | sxm sxm2 32gb hbm2 dgx"),
    "v100-pcie-16gb":          ("Tesla V100-PCIE-16GB", "v100 | pcie 16gb hbm2"),
    "v100-pcie-32gb":          ("Tesla V100-PCIE-32GB", "v100 | pcie 32gb hbm2"),
    "t4":                      ("Tesla T4", "t4 | 16gb pcie"),
    "a10":                     ("NVIDIA A10", "a10 | 24gb pcie"),
    "a10g":                    ("NVIDIA A10G", "a10g | 24gb"),
    "a30":                     ("NVIDIA A30", "a30 | 24gb pcie"),
    "a40":                     ("NVIDIA A40", "a40 | 48gb pcie"),
    "l4":                      ("NVIDIA L4", "l4 | 24gb pcie"),
    "l40":                     ("NVIDIA L40", "l40 | 48gb pcie"),
    "l40s":                    ("NVIDIA L40S", "l40s | 48gb pcie"),
    "rtx-6000-ada":            ("NVIDIA RTX 6000 Ada Generation", "6000 | rtx ada generation 48gb"),
    "quadro-rtx-6000":         ("Quadro RTX 6000", "6000 | rtx quadrortx turing 24gb"),
    "rtx-pro-6000-server":     ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "pro 6000 | rtx blackwell server 96gb"),
    "rtx-pro-6000-workstation": (
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "pro 6000 | rtx blackwell workstation 96gb"),
    "rtx-pro-6000-max-q": (
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "pro 6000 | rtx blackwell maxq workstation 96gb"),
    "rtx-a6000":               ("NVIDIA RTX A6000", "a6000 | rtx 48gb"),
    "titan-rtx":               ("NVIDIA TITAN RTX", "titan rtx | 24gb"),
    "rtx-2080-ti":             ("NVIDIA GeForce RTX 2080 Ti", "2080 ti | rtx 11gb"),
    "rtx-3060":                ("NVIDIA GeForce RTX 3060", "3060 | rtx 12gb"),
    "rtx-3090":                ("NVIDIA GeForce RTX 3090", "3090 | rtx 24gb"),
    "rtx-4070":                ("NVIDIA GeForce RTX 4070", "4070 | rtx 12gb"),
    "rtx-4080":                ("NVIDIA GeForce RTX 4080", "4080 | rtx 16gb"),
    "rtx-4090":                ("NVIDIA GeForce RTX 4090", "4090 | rtx 24gb"),
    "rtx-5080":                ("NVIDIA GeForce RTX 5080", "5080 | rtx 16gb"),
    "rtx-5090":                ("NVIDIA GeForce RTX 5090", "5090 | rtx 32gb"),
    "gb10":                    ("NVIDIA GB10", "gb10 | 128gb dgx spark grace blackwell"),
    "p100-pcie-16gb":          ("Tesla P100-PCIE-16GB", "p100 | pcie 16gb hbm2"),
    "p4":                      ("Tesla P4", "p4 | 8gb pcie"),
}
# fmt: on


def _from(document: str, figures: str) -> dict[str, str]:
    return dict.fromkeys(figures.split(), document)


_TENSOR_RATES = "fp16_flop_per_clock_per_sm bf16_flop_per_clock_per_sm tf32_flop_per_clock_per_sm"
_CLOCK = "derived: the data sheet's dense FP16 peak / (SMs x FLOP per clock and SM)"

# The document a card's figures come from, and the figures that come from elsewhere.
_SOURCES: dict[str, tuple[str, dict[str, str]]] = {
    "a100-sxm4-80gb": (doc.A100, _from(doc.A100_PAPER, "sms boost_clock_hz l2_bytes")),
    "a100-sxm4-40gb": (doc.A100_PAPER, {}),
    "a100-pcie-80gb": (doc.A100, _from(doc.A100_PAPER, "sms boost_clock_hz l2_bytes")),
    "a100-pcie-40gb": (doc.A100_PAPER, _from(doc.A100, "tdp_w")),
    "h100-sxm-80gb": (doc.H100, _from(doc.H100_PAPER, "sms boost_clock_hz tensor_clock_hz l2_bytes")),
    "h100-pcie": (doc.H100_PAPER, {}),
    "h100-nvl": (
        doc.H100,
        _from(doc.DRIVER, "sms boost_clock_hz") | _from(_CLOCK, "tensor_clock_hz"),
    ),
    "h200-sxm": (doc.H200, _from(doc.DRIVER, "sms boost_clock_hz l2_bytes") | _from(_CLOCK, "tensor_clock_hz")),
    "h20": (
        doc.DRIVER,
        _from("148 TFLOP/s in press reports / (SMs x FLOP per clock and SM)", "tensor_clock_hz")
        | _from("derived: the power of two at which 148 TFLOP/s needs a clock that Hopper has", _TENSOR_RATES)
        | _from("press reports: NVIDIA publishes no data sheet", "memory_bandwidth_bytes_per_s tdp_w"),
    ),
    "gh200-96gb": (doc.GH200, _from(doc.DRIVER, "sms boost_clock_hz") | _from(_CLOCK, "tensor_clock_hz")),
    "b200-sxm": (
        doc.HGX,
        _from(doc.DRIVER, "sms boost_clock_hz") | _from(_CLOCK, "tensor_clock_hz") | _from(doc.TUNING, "l2_bytes"),
    ),
    "gb200": (doc.DRIVER, _from(doc.GB200, "tdp_w")),
    "b300-sxm": (
        doc.HGX,
        _from(doc.DRIVER, "sms memory_bytes boost_clock_hz l2_bytes") | _from(_CLOCK, "tensor_clock_hz"),
    ),
    "v100-sxm2-16gb": (doc.V100_PAPER, {}),
    "v100-sxm2-32gb": (doc.V100, _from(doc.V100_PAPER, "sms boost_clock_hz l2_bytes")),
    "v100-pcie-16gb": (doc.V100, _from(doc.V100_PAPER, "sms l2_bytes") | _from(doc.DRIVER, "boost_clock_hz")),
    "v100-pcie-32gb": (doc.V100, _from(doc.V100_PAPER, "sms l2_bytes") | _from(doc.DRIVER, "boost_clock_hz")),
    "t4": (doc.T4, _from(doc.TURING, "sms boost_clock_hz l2_bytes")),
    "a10": (doc.A10, _from(doc.GA102, "l2_bytes")),
    "a10g": (
        doc.A10G,
        _from(doc.DRIVER, "sms l2_bytes tdp_w")
        | _from(f"FP16 Tensor 70 TFLOP/s, twice its FP32, so half the rate: {doc.A10G}", _TENSOR_RATES),
    ),
    "a30": (doc.A30, {}),
    "a40": (doc.A40, _from(doc.GA102, "sms boost_clock_hz l2_bytes")),
    "l4": (doc.L4, _from(f"7,424 CUDA cores, 128 per SM: {doc.L4}", "sms") | _from(doc.ADA_PRO, "l2_bytes")),
    "l40": (
        doc.L40,
        _from(doc.ADA_PRO, "sms boost_clock_hz l2_bytes")
        | _from(f"FP16 Tensor 181.05 TFLOP/s dense, half of the L40S's: {doc.L40}", _TENSOR_RATES),
    ),
    "l40s": (doc.L40S, _from(doc.DRIVER, "l2_bytes")),
    "rtx-6000-ada": (doc.ADA_PRO, {}),
    "quadro-rtx-6000": (doc.TURING, {}),
    "rtx-pro-6000-server": (
        doc.PRO_SERVER,
        _from(doc.DRIVER, "sms l2_bytes")
        | _from(f"derived: 120 TFLOP/s FP32 / (188 SMs x 256 FLOP): {doc.PRO_SERVER}", "boost_clock_hz"),
    ),
    "rtx-pro-6000-workstation": (doc.PRO_BLACKWELL, {}),
    "rtx-pro-6000-max-q": (doc.PRO_BLACKWELL, {}),
    "rtx-a6000": (doc.GA102, {}),
    "titan-rtx": (
        doc.TITAN_RTX,
        _from(doc.TURING, "sms l2_bytes")
        | _from(f"130 Tensor TFLOP/s, the full rate unlike GeForce: {doc.TITAN_RTX}", "fp16_flop_per_clock_per_sm"),
    ),
    "rtx-2080-ti": (doc.TURING, {}),
    "rtx-3060": (doc.RTX_3060, _from(doc.DRIVER, "sms l2_bytes")),
    "rtx-3090": (doc.GA102, {}),
    "rtx-4070": (
        doc.RTX_4070,
        _from(f"5,888 CUDA cores, 128 per SM: {doc.RTX_4070}", "sms") | _from(doc.DRIVER, "l2_bytes"),
    ),
    "rtx-4080": (doc.ADA, {}),
    "rtx-4090": (doc.ADA, {}),
    "rtx-5080": (doc.RTX_BLACKWELL, {}),
    "rtx-5090": (doc.RTX_BLACKWELL, {}),
    "gb10": (doc.SPARK, _from(doc.DRIVER, "sms boost_clock_hz l2_bytes")),
    "p100-pcie-16gb": (
        doc.P100,
        _from(doc.P100_PAPER, "sms l2_bytes")
        | _from(f"derived: 9.3 TFLOP/s FP32 / (56 SMs x 128 FLOP): {doc.P100}", "boost_clock_hz"),
    ),
    "p4": (
        doc.P4,
        _from(doc.DRIVER, "sms l2_bytes")
        | _from(f"derived: 5.5 TFLOP/s FP32 / (20 SMs x 256 FLOP): {doc.P4}", "boost_clock_hz"),
    ),
}

# Cards of which the maker publishes too little: their figures rest on drivers' outputs, the press, or an inference.
_UNVERIFIED = frozenset({"h20", "gh200-96gb", "gb200", "b300-sxm", "gb10"})


@cache
def known_gpus() -> tuple[Gpu, ...]:
    """Every GPU of the table, in its order."""
    return tuple(_gpu(identifier, card) for identifier, card in _CARDS.items())


@cache
def names() -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """Id -> the words that make the model, and all words that may stand in a name of this GPU."""
    words = {}
    for identifier, (_, text) in _NAMES.items():
        model, others = (frozenset(part.split()) for part in text.split("|"))
        words[identifier] = (model, model | others)
    return words


def _gpu(identifier: str, card: _Card) -> Gpu:
    """Convert to bytes and hertz, add what the compute capability says, and name every source."""
    facts, rate_sources = architecture_facts(card.compute_capability, tensor_share=card.tensor_share)
    facts |= {
        "compute_capability": card.compute_capability,
        "sms": card.sms,
        "memory_bytes": round(card.memory_gib * 2**30),
        "boost_clock_hz": card.boost_mhz * 1e6,
        "memory_bandwidth_bytes_per_s": card.bandwidth_gb_s * 1e9,
        "tdp_w": float(card.tdp_w),
    }
    if card.cuda_mib is not None:
        facts["cuda_memory_bytes"] = card.cuda_mib * 2**20
    if card.tensor_mhz is not None:
        facts["tensor_clock_hz"] = card.tensor_mhz * 1e6
    if card.l2_mib is not None:
        facts["l2_bytes"] = round(card.l2_mib * 2**20)
    document, elsewhere = _SOURCES[identifier]
    sources = rate_sources | {"cuda_memory_bytes": doc.CUDA_MEMORY} | elsewhere
    return Gpu(
        id=identifier,
        name=_NAMES[identifier][0],
        verified=identifier not in _UNVERIFIED,
        sources={figure: sources.get(figure, document) for figure in facts},
        **facts,
    )
