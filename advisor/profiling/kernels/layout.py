"""In which memory layout the convolutions of a trace ran."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from advisor.profiling.records import QUANTIZED, KernelGroup

CONVOLUTIONS = QUANTIZED - {"gemm", "attention"}
CONVERTS = 0.02
"""Of the convolutions' time: conversions that take longer say that the tensors are in the other layout."""
_NHWC = re.compile(r"nhwc(?!krsc_nchw)", re.IGNORECASE).search  # cuDNN's nhwckrsc_nchw serves NCHW tensors
_CONVERSION = re.compile(r"nchw_?(?:to|2)_?nhwc|nhwc_?(?:to|2)_?nchw", re.IGNORECASE).search


def traced_layout(groups: Sequence[KernelGroup]) -> Literal["nhwc", "nchw"] | None:
    """NHWC where the names of most convolution time say so and next to nothing is converted; None: no convolutions."""
    computing = [group for group in groups if group.class_ in CONVOLUTIONS and not group.helper]
    total_s = sum(group.total_s for group in computing)
    if total_s <= 0:
        return None
    converting_s = sum(group.total_s for group in groups if _CONVERSION(group.name))
    nhwc_s = sum(group.total_s for group in computing if _NHWC(group.name) and not _CONVERSION(group.name))
    return "nhwc" if nhwc_s > total_s / 2 and converting_s < CONVERTS * total_s else "nchw"
