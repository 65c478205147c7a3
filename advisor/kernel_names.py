"""What the name of a library's kernel tells: which library, tile, stages, split-K, layout and instruction.

cuBLAS, cuDNN and CUTLASS write the cut of a matrix product into the names of their kernels, in ways that changed
with the generations. Here each way is one pattern; a name that fits none says unknown, and what a name does not
tell stays None: nothing is guessed.

Sources: CUTLASS's profiler documentation, "Kernel naming convention" (for cutlass3x: instruction shape, data types,
threadblock or tile shape MxNxK, cluster shape, stages, layouts); the names themselves, as profilers recorded them
on Volta to Blackwell. cuBLAS is column-major: for PyTorch's y[m, n] = x[m, k] w[n, k]^T it computes y^T, and the
first number of its tiles runs along n. Of the 19,324 FP32 products of NeuSight (github sitar-lab/NeuSight, commit
6945927d) whose grid can tell the two readings apart, 99 % have as many blocks as that reading gives.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from advisor.kernel_families import read_family

Library = Literal["cuBLAS", "cuDNN", "CUTLASS", "Triton", "PyTorch", "unknown"]
Operation = Literal["gemm", "gemv", "fprop", "dgrad", "wgrad", "conv", "attention", "split-K reduction"]


@dataclass(frozen=True)
class KernelName:
    """What one kernel's name tells; None: the name does not say."""

    name: str
    library: Library = "unknown"
    operation: Operation | None = None  # "conv": a convolution whose pass the name does not tell
    architecture: str | None = None  # that the kernel was written for, e.g. "ampere", "sm80", "sm90"
    precision: str | None = None  # of the operands: "fp16", "bf16", "tf32", "fp32", "fp64", "fp8", "int8"
    tensor_cores: bool | None = None
    tile_rows: int | None = None  # the first number of the tile, as the library means it: cuBLAS's rows are our n
    tile_columns: int | None = None
    tile_k: int | None = None
    stages: int | None = None
    cluster: tuple[int, int] | None = None  # CTAs of a cluster
    split_k: bool | None = None  # whether the contraction is divided among CTAs
    layout: str | None = None  # of the operands, as the library names them: "tn", "nhwc", ...
    persistent: bool | None = None  # CTAs loop over tiles: one wave by design
    helper: bool | None = None  # True: serves a product and computes none: transforms, offsets, sums of a split K

    @property
    def tile(self) -> str | None:
        """The tile as the name prints it, e.g. "256x128x32"."""
        sizes = (self.tile_rows, self.tile_columns, self.tile_k)
        return "x".join(str(size) for size in sizes if size is not None) if self.tile_rows is not None else None

    @property
    def known(self) -> bool:
        """Whether the name fits a pattern."""
        return self.library != "unknown"


_PRECISIONS = {
    "f16": "fp16", "fp16": "fp16", "h": "fp16", "bf16": "bf16", "tf32": "tf32", "f32": "fp32", "s": "fp32",
    "f64": "fp64", "d": "fp64", "e4m3": "fp8", "e5m2": "fp8", "f8": "fp8",
    "i8": "int8", "s8": "int8", "int8": "int8", "i": "int8",
    "c": "fp32", "z": "fp64",  # complex, of two such numbers each
}  # fmt: skip
_PASSES: dict[str, Operation] = {"fprop": "fprop", "dgrad": "dgrad", "wgrad": "wgrad", "gemm": "gemm", "cudnn": "conv"}
# m16n8k16 and the like; in names 16816 is m16 n8 k16. A kernel with one of these runs on Tensor Cores.
_INSTRUCTION = r"884|1688|16816|161616|8816|16832|82828"

# volta_fp16_s884gemm_fp16_128x128_ldg8_f2f_nn; ampere_gcgemm_64x64_nt; cudnn_infer_ampere_scudnn_winograd_128x128_...;
# ampere_fp16_s16816gemm_fp16_128x128_ldg8_f2f_stages_32x5_tn;
# volta_sgemm_128x64_nn; turing_fp16_s1688cudnn_fp16_128x128_ldg8_relu_f2f_exp_medium_nhwc_tn_v1;
# cudnn_ampere_scudnn_128x64_relu_xregs_large_nn_v1; volta_scudnn_128x128_stridedB_splitK_small_nn_v1
_CASK = re.compile(
    r"(?<![A-Za-z0-9])(?P<architecture>maxwell|pascal|volta|turing|ampere|hopper)_(?:(?P<operands>fp16|bf16|tf32|int8)_)?"
    rf"(?P<letter>[a-z]{{1,2}}?)(?P<instruction>{_INSTRUCTION})?(?P<what>gemm|cudnn)_(?:winograd_)?"
    r"(?:(?P<out>[a-z]+\d+)_(?:[a-z]+\d+_)?)?(?P<rows>\d+)x(?P<columns>\d+)(?P<rest>\w*)"
)
# cutlass_80_tensorop_f16_s16816gemm_f16_256x128_32x3_tn_align8; cutlass_80_simt_sgemm_128x64_8x5_tn_align1;
# cutlass_tensorop_f16_s16816dgrad_optimized_f16_128x256_32x3_unity_stride; cutlass_75_wmma_tensorop_...
# cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_128x256_64x3_nt_align8; without K and stages, where cuBLAS falls back
# for operands that are not aligned: cutlass_75_tensorop_bf16_s1688gemm_bf16_64x64_nn_align1
_CUTLASS_2 = re.compile(
    r"cutlass_(?:(?P<sm>\d{2,3})_)?(?P<unit>wmma_tensorop|tensorop|simt)_(?:(?P<out>[a-z]+\d+)_)?"
    rf"(?P<letter>[a-z]*?)(?P<instruction>{_INSTRUCTION})?(?:tf32|bf16|f16)?(?P<what>gemm|fprop|dgrad|wgrad)(?:3d)?"
    r"(?:_[a-z]+)*(?:_(?P<operands>[a-z]+\d+))?_(?P<rows>\d+)x(?P<columns>\d+)(?:_(?P<k>\d+)x(?P<stages>\d+))?"
    r"(?P<rest>\w*)"
)
# cutlass3x_sm90_tensorop_s64x128x16gemm_f16_f16_f32_f16_f16_128x128x64_2x1x1_0_ttt_align8_warpspecialized_pingpong
_CUTLASS_3 = re.compile(
    r"cutlass3x_sm(?P<sm>\d+)_(?P<unit>tensorop|simt|bstensorop)_\w*?(?P<what>gemm|fprop|dgrad|wgrad)_(?P<operands>\w+?)_\w*?"
    r"(?P<rows>\d+)x(?P<columns>\d+)x(?P<k>\d+)_(?P<cluster_rows>\d+)x(?P<cluster_columns>\d+)x\d+_(?P<stages>\d+)"
    r"(?:_(?P<layout>[tn]{3}))?(?P<rest>\w*)"
)
# sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel__5x_cublas;
# sm80_xmma_fprop_implicit_gemm_indexed_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize256x64x32_stage3_warpsize4x1x1_g1_
# tensor16x8x16_execute_kernel__5x_cudnn
_XMMA = re.compile(
    r"sm(?P<sm>\d+)_xmma_(?:sparse_)?(?P<what>gemm|fprop|dgrad|wgrad)_(?:implicit_gemm_)?(?:indexed_|interleaved_)?(?:wo_smem_)?"
    r"(?P<operands>bf16|f16|tf32|f32|f64|e4m3|e5m2|i8)[a-z0-9]*_(?P<compute>tf32)?\w*?_(?P<layout>[tn]{2}_[tn]|n[cdhw0-9]+k[crst0-9]+_n\w+?)_"
    r"(?:tilesize)?(?P<rows>\d+)x(?P<columns>\d+)x(?P<k>\d+)(?:_stage(?P<stages>\d+))?(?P<rest>\w*)"
)
# nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NTN; nvjet_sm100_tst_64x32_64x16_2x1_2cta_v_bz_splitK_TNT: operand, accumulator
# and output type; tile; extent of K x stages; cluster; order of the raster; layouts.
_NVJET = re.compile(
    r"nvjet_(?:sm(?P<sm>\d+)_)?(?P<types>[a-z]{3,5})_(?P<rows>\d+)x(?P<columns>\d+)_(?P<k>\d+)x(?P<stages>\d+)_"
    r"(?P<cluster_rows>\d+)x(?P<cluster_columns>\d+)(?P<rest>\w*?)_(?P<layout>[TN]{3})(?:\W|$)"
)
# nvjet_sm120_tst_mma_64x64x128_3_32x32x128_tmaAB_alignCD4_bz_TNNN
_NVJET_MMA = re.compile(
    r"nvjet_sm(?P<sm>\d+)_(?P<types>[a-z]{3,5})_mma_(?P<rows>\d+)x(?P<columns>\d+)x(?P<k>\d+)_(?P<stages>\d+)_"
    r"(?P<rest>\w*?)_(?P<layout>[TN]{3,4})(?:\W|$)"
)
# Volta_hmma_implicit_gemm_fprop_fp32_nhwc_128x128x64x1_1x3x3x0x1
_HMMA = re.compile(
    r"(?P<architecture>[Vv]olta|[Tt]uring)_hmma_implicit_gemm_(?P<what>fprop|dgrad|wgrad)_\w+?_(?P<layout>nhwc|nchw)_"
    r"(?P<rows>\d+)x(?P<columns>\d+)x(?P<k>\d+)"
)
_NVJET_TYPES = {"h": "fp16", "t": "bf16", "q": "fp8"}


def _cask(name: str, found: re.Match[str]) -> KernelName:
    rest, instruction = found["rest"], found["instruction"]
    stages = re.search(r"_stages_(\d+)x(\d+)", rest)
    layout = re.search(r"_(nhwc2nchw|nhwc|nchw)?_?([nt]{2})(?:_v\d)?$", rest)
    letter = found["letter"][-1:]
    operands = found["operands"] or letter
    if found["operands"] is None and instruction and letter == "s":  # s is the accumulator; the output's type follows
        tf32 = found["architecture"] in ("ampere", "hopper") and instruction == "1688"
        operands = found["out"] or ("tf32" if tf32 else "fp16" if instruction in ("884", "1688") else "")
    conv = found["what"] == "cudnn"
    pass_ = re.search(r"_(dgrad|wgrad)_", rest)
    return KernelName(
        name,
        library="cuDNN" if conv else "cuBLAS",
        operation=_PASSES[pass_[1] if pass_ else found["what"]],
        architecture=found["architecture"],
        precision=_PRECISIONS.get(operands),
        tensor_cores=instruction is not None,
        tile_rows=int(found["rows"]),
        tile_columns=int(found["columns"]),
        tile_k=int(stages[1]) if stages else None,
        stages=int(stages[2]) if stages else None,
        split_k=True if "splitK" in rest else None,
        layout="_".join(part for part in layout.groups() if part) if layout else None,
    )


def _cutlass_2(name: str, found: re.Match[str]) -> KernelName:
    rest = found["rest"]
    layout = re.search(r"_(nhwc|[nt]{2})(?=_|$)", rest)
    tensor_cores = found["unit"] != "simt"
    operands = found["operands"] or found["out"] or found["letter"]
    if operands == "s" and tensor_cores:  # FP32 operands
        operands = "tf32"
    return KernelName(
        name,
        library="cuDNN" if "cudnn" in name else "CUTLASS",
        operation=_PASSES[found["what"]],
        architecture=f"sm{found['sm']}" if found["sm"] else None,
        precision=_PRECISIONS.get(operands),
        tensor_cores=tensor_cores,
        tile_rows=int(found["rows"]),
        tile_columns=int(found["columns"]),
        tile_k=int(found["k"]) if found["k"] else None,
        stages=int(found["stages"]) if found["stages"] else None,
        split_k=True if "splitK" in rest or "split_k" in rest else None,
        layout=layout[1] if layout else None,
    )


def _cutlass_3(name: str, found: re.Match[str]) -> KernelName:
    return KernelName(
        name,
        library="CUTLASS",
        operation=_PASSES[found["what"]],
        architecture=f"sm{found['sm']}",
        precision=_PRECISIONS.get(found["operands"].split("_")[0]),
        tensor_cores=found["unit"] != "simt",
        tile_rows=int(found["rows"]),
        tile_columns=int(found["columns"]),
        tile_k=int(found["k"]),
        stages=int(found["stages"]) or None,  # 0: as many as fit
        cluster=(int(found["cluster_rows"]), int(found["cluster_columns"])),
        split_k=True if "stream_k" in found["rest"] else None,
        layout=found["layout"],
        persistent=True if re.search("pingpong|cooperative|stream_k", found["rest"]) else None,
    )


def _xmma(name: str, found: re.Match[str]) -> KernelName:
    rest = found["rest"]
    split: bool | None = None
    if re.search(r"segment_k_on|split_?k", rest, re.IGNORECASE):
        split = True
    elif "segment_k_off" in rest:
        split = False
    gemm = found["what"] == "gemm"
    return KernelName(
        name,
        library="cuBLAS" if gemm else "cuDNN",
        operation=_PASSES[found["what"]],
        architecture=f"sm{found['sm']}",
        precision=found["compute"] or _PRECISIONS[found["operands"]],
        tensor_cores=bool(re.search(r"_(?:sp)?tensor\d|warpgroupsize", rest)),
        tile_rows=int(found["rows"]),
        tile_columns=int(found["columns"]),
        tile_k=int(found["k"]),
        stages=int(found["stages"]) if found["stages"] else None,
        split_k=split,
        layout=found["layout"],
    )


def _nvjet(name: str, found: re.Match[str]) -> KernelName:
    return replace(
        _nvjet_mma(name, found),
        cluster=(int(found["cluster_rows"]), int(found["cluster_columns"])),
    )


def _nvjet_mma(name: str, found: re.Match[str]) -> KernelName:
    return KernelName(
        name,
        library="cuBLAS",
        operation="gemm",
        # named without one, they are Hopper's, but for pairs of CTAs, which are Blackwell's
        architecture=f"sm{found['sm'] or (100 if '_2cta' in found['rest'] else 90)}",
        precision=_NVJET_TYPES.get(found["types"][0]),
        tensor_cores=True,
        tile_rows=int(found["rows"]),
        tile_columns=int(found["columns"]),
        tile_k=int(found["k"]),
        stages=int(found["stages"]),
        split_k=True if "splitK" in found["rest"] else None,
        layout=found["layout"],
    )


def _hmma(name: str, found: re.Match[str]) -> KernelName:
    return KernelName(
        name,
        library="cuDNN",
        operation=_PASSES[found["what"]],
        architecture=found["architecture"].lower(),
        precision="fp16",
        tensor_cores=True,
        tile_rows=int(found["rows"]),
        tile_columns=int(found["columns"]),
        tile_k=int(found["k"]),
        layout=found["layout"],
    )


_PATTERNS: tuple[tuple[re.Pattern[str], Callable[[str, re.Match[str]], KernelName]], ...] = (
    (_NVJET, _nvjet),
    (_NVJET_MMA, _nvjet_mma),
    (_XMMA, _xmma),
    (_CUTLASS_3, _cutlass_3),
    (_CUTLASS_2, _cutlass_2),
    (_HMMA, _hmma),
    (_CASK, _cask),
)
# Characters read of a name, whose template arguments run to thousands: for a printed tile, and for anything else. The
# patterns take quadratic time at worst, which these bound.
_LONGEST_WITH_TILE, _LONGEST = 1024, 2048
_LARGEST_TILE = 1024  # on a side; the largest known is 512 (Blackwell's pairs of CTAs)


def _without_absurd_tile(told: KernelName) -> KernelName:
    """Names of others' files may hold any number; no library has tiles without rows, or of thousands."""
    sizes = (told.tile_rows, told.tile_columns, told.tile_k)
    if all(size is None or 1 <= size <= _LARGEST_TILE for size in sizes):
        return told
    return replace(told, tile_rows=None, tile_columns=None, tile_k=None)


@lru_cache(maxsize=4096)
def parse_kernel_name(name: str) -> KernelName:
    """Read the name of a CUDA kernel, as a profiler shows it, demangled or not.

    An unknown name is no error: the library says "unknown", and every other field is None.
    """
    text = name[:_LONGEST]
    for pattern, read in _PATTERNS:
        found = pattern.search(text, 0, _LONGEST_WITH_TILE)
        if found is not None:
            return _without_absurd_tile(read(name, found))
    family = read_family(text)
    return KernelName(name, **family) if family is not None else KernelName(name)
