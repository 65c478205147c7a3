"""Which gradient each kernel of one backward convolution computes.

PyTorch's convolution_backward launches the kernels of the input's gradient, then those of the filter's. Where the
names of some tell, the cut lies between; kernels that prepare (layout, offsets, fills) go with the next, those that
finish (split-K sums, layout back) with the one before.
"""

from __future__ import annotations

import re
from functools import lru_cache

from advisor.convolution import Pass
from advisor.kernel_names import parse_kernel_name

_WGRAD = re.compile(r"wgrad|grad_weight|backward_?filter|computeWgrad", re.IGNORECASE)
_DGRAD = re.compile(r"dgrad|grad_input|backward_?data|conv_depthwise2d_backward_kernel", re.IGNORECASE)
_PREPARES = re.compile(
    r"nchwToNhwc|nchw2nhwc|compute\w*Offsets|scalePackedTensor|FillFunctor|memset|fillPadding|generateWinograd|"
    r"winogradForwardFilter|im2col|transform_filter|rotate",
    re.IGNORECASE,
)
_FINISHES = re.compile(r"nhwcToNchw|nhwc2nchw|split_?K_?reduce|splitKreduce|col2im|ForwardOutput", re.IGNORECASE)


@lru_cache(maxsize=65536)
def split_passes(kernels: tuple[str, ...], wanted: tuple[bool, bool]) -> tuple[tuple[Pass, ...], bool]:
    """The pass of each kernel, in launch order, and whether anything tells it; else the kernels are halved.

    `wanted`: whether the gradients of (input, filter) are computed.
    """
    if wanted == (True, False):
        return _dgrad_then_wgrad(len(kernels), len(kernels)), True
    if wanted == (False, True):
        return _dgrad_then_wgrad(0, len(kernels)), True
    roles = tuple(_role(name) for name in kernels)
    cut = _cut(roles)
    return _dgrad_then_wgrad(cut, len(kernels)), "dgrad" in roles or "wgrad" in roles


def _dgrad_then_wgrad(cut: int, count: int) -> tuple[Pass, ...]:
    return tuple("dgrad" if i < cut else "wgrad" for i in range(count))


def _role(name: str) -> str:
    """ "dgrad", "wgrad", "prepares", "finishes", or "main": a convolution or product whose name does not tell."""
    operation = parse_kernel_name(name).operation
    if operation == "wgrad" or _WGRAD.search(name):
        return "wgrad"
    if operation == "dgrad" or _DGRAD.search(name):
        return "dgrad"
    if operation == "split-K reduction" or _FINISHES.search(name):
        return "finishes"
    return "prepares" if _PREPARES.search(name) else "main"


def _cut(roles: tuple[str, ...]) -> int:
    """How many of the first kernels are the input gradient's."""
    least = max((i + 1 for i, role in enumerate(roles) if role == "dgrad"), default=0)
    most = min((i for i, role in enumerate(roles) if role == "wgrad"), default=len(roles))
    least = min(least, most)  # where names contradict the order: believe the filter's
    mains = [i for i in range(least, most) if roles[i] == "main"]
    if most < len(roles):  # what is unnamed before is the input's
        cut = most
    elif least > 0:  # what is unnamed after is the filter's
        cut = mains[0] if mains else len(roles)
    else:
        cut = mains[len(mains) // 2] if mains else len(roles)
    return _to_edge(roles, cut, least)


def _to_edge(roles: tuple[str, ...], cut: int, least: int) -> int:
    """Move a cut back over what prepares the kernel behind it, forward over what finishes the one before."""
    while cut > least and cut < len(roles) and roles[cut - 1] == "prepares":
        cut -= 1
    while cut < len(roles) and roles[cut] == "finishes":
        cut += 1
    return cut
