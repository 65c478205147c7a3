"""Kernels whose names print no tile: the family one belongs to, and what its template arguments tell.

For `advisor.kernel_names`, which reads the names that print a tile first. A field that is not told is left out.

Sources: kernels as profilers recorded them on Volta to Blackwell; the templates of CUTLASS (`cutlass/gemm`,
`cutlass/conv`), FlashAttention (`flash_fwd_kernel`, `FlashAttnFwdSm90`) and PyTorch (`aten/src/ATen/native/cuda`).
The engines of cuDNN that are listed as off the Tensor Cores multiply on CUDA cores, in the type that their first
template argument names: cuDNN falls back to them where no Tensor Core kernel may run.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple


class _Family(NamedTuple):
    pattern: re.Pattern[str]
    library: str
    operation: str | None
    tensor_cores: bool | None
    helper: bool  # serves a product and computes none
    typed: bool  # the first floating-point type among the template arguments is that of the operands


def _family(library: str, operation: str | None, patterns: str, *flags: str) -> _Family:
    """One family. `patterns`: regular expressions, apart by blanks; flags: "tensor cores", "CUDA cores", ..."""
    tensor_cores = True if "tensor cores" in flags else False if "CUDA cores" in flags else None
    alternatives = re.compile("|".join(patterns.split()))
    return _Family(alternatives, library, operation, tensor_cores, "helper" in flags, "typed" in flags)


_SERVES_CONVOLUTION = (
    r"winogradForward(?:Data|Filter|Output) generateWinogradTiles fft2d_(?:r2c|c2r) DSE::\w*fft "
    r"compute\w*OffsetsKernel scalePackedTensor kern_precompute_indices flip_filter cask_cudnn:: cask_plugin_cudnn::"
)
_ON_CUDA_CORES = (
    r"(?:im|ex)plicit_convolve_[sd]gemm precomputed_convolve_[sd]gemm convolve_common_engine winograd3x3Kernel "
    r"conv2d_(?:grouped_direct|c1_k1)"
)
_FORWARD_AND_BACKWARD = (
    r"fmha_cutlass[FB] mem_eff AttentionKernel< AttentionBackwardKernel< ::fmha:: fmha_v2 fused_attention "
    r"mha_(?:fwd|bwd) \bfmha_\w*kernel \bfmhaSm\d+ \battn_(?:fwd|bwd) sparse_attn_(?:fwd|bwd) paged_attention "
    r"multihead_attention flash:: _flash_attn flashinfer::.*(?:[Pp]refill|[Dd]ecode|MLA) "
    r"BatchPrefillWith BatchDecodeWith"
)
# torch.compile names its loops after all that they fuse or stand beside: triton_poi_fused_addmm_relu_1 only adds the
# bias to what another kernel multiplied.
_NO_LOOP = r"(?!(?:poi|red|per|for|unk|mix|split_scan)_)"
# The first that fits counts.
_FAMILIES = (
    _family(
        "cuBLAS", "split-K reduction",
        r"(?:split|Split)_?[kK]_?[rR]educe splitk\w*reduc ::split_k_kernel<", "helper",
    ),
    _family(
        "cuBLAS", "gemm", r"epilogue::impl::globalKernel \bscal_kernel(?:_val)?< prepare_grouped_gemm_data", "helper",
    ),
    _family(
        "cuDNN", "wgrad", r"winogradWgrad(?:Data|Delta|Output) compute\w*Wgrad\w*Offsets", "helper", "typed"
    ),
    _family("cuDNN", "conv", _SERVES_CONVOLUTION, "helper", "typed"),
    _family("PyTorch", "conv", r"im2col col2im vol2col col2vol", "helper", "typed"),
    _family(
        "cuDNN", "wgrad", r"wgrad_alg\d\w*_engine wgrad2d\w*(?:direct|c1_k1) convolve_wgrad", "CUDA cores", "typed"
    ),
    _family("cuDNN", "dgrad", r"dgrad\w*_engine dgrad2d\w*(?:direct|c1_k1)", "CUDA cores", "typed"),
    _family("cuDNN", "conv", _ON_CUDA_CORES, "CUDA cores", "typed"),
    _family("PyTorch", "conv", r"conv_depthwise DepthwiseConv depthwise_conv", "CUDA cores", "typed"),
    _family("cuDNN", "wgrad", r"xmma\w*_wgrad wgrad_engine"),
    _family("cuDNN", "dgrad", r"xmma\w*_dgrad"),
    _family("cuDNN", "fprop", r"xmma\w*_fprop"),
    _family("cuDNN", "conv", r"convolve [wW]inograd"),
    _family("cuDNN", "attention", r"cudnn_generated\w*(?:sdpa|fmha)_sm\d+_flash_[fb]prop", "tensor cores"),
    _family("cuDNN", "attention", r"cudnn\w*(?:sdpa|flash|fmha|mha)"),
    _family(
        "FlashAttention", "attention",
        r"flash_(?:bwd|fwd)_\w*(?:dot_do_o|convert|clear|combine) FlashAttn\w*(?:Preprocess|Postprocess|Combine) "
        r"prepare_varlen",
        "helper",
    ),
    _family(
        "FlashAttention", "attention", r"flash_(?:fwd|bwd)\w*kernel FlashAttn(?:Fwd|Bwd)", "tensor cores", "typed"
    ),
    _family("PyTorch", "attention", r"fmha_cutlass[FB]_b?f16_", "tensor cores"),
    _family("PyTorch", "attention", _FORWARD_AND_BACKWARD),
    _family(
        "Triton", "attention",
        rf"^triton_{_NO_LOOP}\w*(?:flex_attention|scaled_dot_product|flash_attention) ^_attn_(?:fwd|bwd) "
        r"^_bwd_kernel_d(?:k|q) ^_\w*attention_(?:fwd|bwd)",
    ),
    _family(
        "cuBLAS", "gemv", r"gemv(?:NSP|2T|2N|x|_) \bgemv\w*kernel dot_kernel reduce_1Block_kernel",
        "CUDA cores", "typed",
    ),
    _family(
        "cuBLAS", "gemm",
        r"gemmSN_ gemmk1_kernel gemm_kernel2x2 [sd]gemm_largek fermi[CSD]gemm magma_[sdh]gemm", "CUDA cores", "typed",
    ),
    _family(
        "unknown", "gemm",
        r"deep_gemm:: cutlass\w*gemm fp8_gemm kgemm_4bit [mM]arlin awq_gemm gptq_gemm tinygemm moe_gemm",
    ),
    _family("Triton", "conv", rf"^triton_tem_\w*convolution ^triton_{_NO_LOOP}\w*_conv2d ^_conv\w*_kernel"),
    _family(
        "Triton", "gemm",
        rf"^triton_tem_ ^triton_{_NO_LOOP}(?:\w*_)?(?:b?mm|addmm|gemm)(?:_|$) "
        r"^_?\w*matmul\w*kernel ^_?fused_moe_kernel ^_\w*gemm",
    ),
    _family("Triton", None, r"^triton_"),
    _family("NCCL", None, r"nccl\w*Kernel"),
    _family("FBGEMM", None, r"fbgemm split_embedding permute_pooled_embs bounds_check_indices linearize_index"),
    _family("Transformer Engine", None, r"transformer_engine"),
    _family("PyTorch", None, r"at::native c10:: at_cuda_detail \)::softmax_ cunn_ cuApplyLayerNorm cuCompute"),
    _family("CUB", None, r"\bcub:: \bthrust::"),
    _family("cuDNN", None, r"cudnn nchwToNhwc nhwcToNchw"),
    _family("cuBLAS", None, r"cublas"),
    _family("Apex", None, r"multi_tensor_apply_kernel"),
)  # fmt: skip
_TYPES = {
    "float": "fp32", "float2": "fp32", "double": "fp64", "double2": "fp64", "tfloat32_t": "tf32",
    "__half": "fp16", "half_t": "fp16", "Half": "fp16", "half": "fp16",
    "__nv_bfloat16": "bf16", "bfloat16_t": "bf16", "BFloat16": "bf16",
    "float_e4m3_t": "fp8", "float_e5m2_t": "fp8", "signed char": "int8",
}  # fmt: skip
_TYPE = re.compile(rf"(?<!\w)({'|'.join(_TYPES)})(?!\w)")
_MANGLED_TYPE = re.compile(r"\d(tfloat32_t|half_t|bfloat16_t)")
# fmha_cutlassF_f16_aligned_64x64_rf_sm80; cudnn_generated_fort_native_sdpa_sm100_flash_bprop_mxfp8_knob_...; cuDNN
# writes f16 for BF16 too, so that tells nothing
_NAMED_TYPE = re.compile(r"fmha_cutlass[FB]_(bf16|f16|f32)_|sdpa_\w*prop\w*?_(mxfp8|fp8|e4m3|e5m2)_")
_NAMED_TYPES = {"f16": "fp16", "bf16": "bf16", "f32": "fp32"}

# xmma_new::gemm::kernel<xmma_new::implicit_gemm::wgrad_indexed::Kernel_traits<xmma_new::Ampere_hmma_tf32_traits<...>,
# xmma_new::Cta_tile<xmma_new::Ampere, 128, 128, 16, 2, 2, 1, 1, 1>, ...
_XMMA_PASS = re.compile(r"implicit_gemm::\w*(fprop|dgrad|wgrad)")
_XMMA_TRAITS = re.compile(r"::([A-Z][a-z]+)_([a-z]+)_(\w*)traits<")
_XMMA_TILE = re.compile(r"Cta_tile<[\w:]+, (\d+), (\d+), (\d+)")
# CollectiveMma<cutlass::gemm::MainloopSm90TmaGmmaWarpSpecialized<4, cute::tuple<cute::C<2>, ...>: cluster, then tile
_TRIPLE = re.compile(r"tuple<" + ", ?".join([r"(?:cute::)?C<(?:\(int\))?(\d+)>"] * 3) + " ?>")
# cutlass::gemm::GemmShape<128, 128, 32>, mangled GemmShapeILi128ELi128ELi32EEE: the first is the thread block's
_GEMM_SHAPE = re.compile(r"GemmShape(?:<|ILi)(\d+)(?:, |ELi)(\d+)(?:, |ELi)(\d+)")
# Flash_fwd_kernel_traits<head size, rows of Q, columns of K, warps, ...>
_FLASH = re.compile(r"Flash_(?:fwd|bwd)_kernel_traits<(\d+), (\d+), (\d+), \d+")


def read_family(text: str) -> dict[str, Any] | None:
    """Fields of `KernelName` that a name without a printed tile tells; None: it belongs to no family known here."""
    if "xmma" in text and "::gemm::kernel<" in text and (traits := _XMMA_TRAITS.search(text)) is not None:
        return _xmma(text, *traits.groups())
    if "cutlass" in text and ("CollectiveMma" in text or "GemmShape" in text):
        return _cutlass(text)
    for family in _FAMILIES:
        if family.pattern.search(text) is not None:
            return _of(family, text)
    return None


def _of(family: _Family, text: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "library": family.library,
        "operation": family.operation,
        "tensor_cores": family.tensor_cores,
        "helper": family.helper or None,
    }
    if family.typed and "<" in text and (kind := _TYPE.search(text, text.index("<"))) is not None:
        told["precision"] = _TYPES[kind[1]]
    if (named := _NAMED_TYPE.search(text)) is not None:
        told["precision"] = _NAMED_TYPES[named[1]] if named[1] else "fp8"
    if (tile := _FLASH.search(text)) is not None:
        told |= dict(zip(("tile_k", "tile_rows", "tile_columns"), map(int, tile.groups()), strict=True))
    if family.operation is not None and re.search("[pP]ersistent", text):
        told["persistent"] = True
    return told


def _xmma(text: str, architecture: str, unit: str, traits: str) -> dict[str, Any]:
    """`unit`: hmma, hgmma, imma, ... or ffma (CUDA cores). "hmma_fp32" are FP16 operands, accumulated in FP32."""
    pass_, tile = _XMMA_PASS.search(text), _XMMA_TILE.search(text)
    told: dict[str, Any] = {
        "library": "cuDNN" if pass_ else "cuBLAS",
        "operation": pass_[1] if pass_ else "gemm",
        "architecture": architecture.lower(),
        "tensor_cores": unit != "ffma",
    }
    if tile is not None:
        told |= _tile(tile.groups())
    named = next((word for word in ("tf32", "bf16") if word in traits), None)
    plain = {"hmma": "fp16" if re.match("fp(?:16|32)_", traits) else None, "imma": "int8", "ffma": "fp32"}
    return told | {"precision": named or plain.get(unit)}


def _cutlass(text: str) -> dict[str, Any]:
    pass_ = re.search(r"Conv[23]d(Fprop|Dgrad|Wgrad)", text)
    told: dict[str, Any] = {
        "library": "cuDNN" if "cudnn" in text else "CUTLASS",
        "operation": pass_[1].lower() if pass_ else "attention" if re.search("FlashAttn|fmha|Fmha", text) else "gemm",
    }
    if "CollectiveMma" in text:
        triples = _TRIPLE.findall(text, text.index("CollectiveMma"))
        told["tensor_cores"] = True if re.search("[GU]mma", text) else None
        told["persistent"] = True if re.search("Pingpong|Cooperative|StreamK|Persistent", text) else None
        if len(triples) > 1:
            told |= {"cluster": (int(triples[0][0]), int(triples[0][1])), **_tile(triples[1])}
    else:
        shape = _GEMM_SHAPE.search(text)
        told["tensor_cores"] = True if "MmaTensorOp" in text else False if "MmaSimt" in text else None
        told |= _tile(shape.groups()) if shape else {}
    kind = _TYPE.search(text) or _MANGLED_TYPE.search(text)
    precision = _TYPES[kind[1]] if kind else None
    if precision == "fp32" and told["tensor_cores"]:
        return told  # TF32, or BF16 three times: it does not say
    return told | {"precision": precision}


def _tile(sizes: tuple[str, ...]) -> dict[str, int]:
    return dict(zip(("tile_rows", "tile_columns", "tile_k"), map(int, sizes), strict=True))
