"""What CUDA would launch for an operator: names, grids and resources as its libraries have them, times by a plain law.

Time of a kernel, in microseconds, is 1.5 and
  rounds x FLOP of a tile / (60 % of an SM's peak) for products and attention, rounds being tiles over SMs, rounded up;
  bytes / (70 % of the bandwidth) for all else.
Tiles of cuBLAS are column-major: the first number runs along the n of C[m, n]. Names are as profilers show them, with
their arguments left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.advisor.profiling.simulated_operators import Node
from tests.kineto import A100 as A100_PROPERTIES

H100_PROPERTIES = A100_PROPERTIES | {
    "name": "NVIDIA H100 80GB HBM3", "totalGlobalMem": 85029158912, "computeMajor": 9, "numSms": 132,
    "sharedMemPerMultiprocessor": 233472, "sharedMemPerBlockOptin": 232448,
}  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """Dense Tensor Core FLOP/s in FP16 and bytes/s, of the data sheets."""

    properties: dict[str, Any]
    half_flops: float
    bandwidth: float
    slowdown: float = 1.0  # of every kernel
    has_tf32: bool = True  # FP32 products run in it

    @property
    def sms(self) -> int:
        return int(self.properties["numSms"])

    @property
    def hopper(self) -> bool:
        return bool(self.properties["computeMajor"] == 9)

    def rate(self, *, half: bool) -> float:
        """FLOP/s of products: TF32 at half of FP16's, FP32 at a sixteenth."""
        return self.half_flops * (1 if half else 1 / 2 if self.has_tf32 else 1 / 16)


A100 = Gpu(A100_PROPERTIES, 312e12, 2.04e12)
H100 = Gpu(H100_PROPERTIES, 989e12, 3.35e12)


@dataclass(frozen=True)
class Kernel:
    name: str
    us: float
    grid: tuple[int, int, int] = (1, 1, 1)
    block: int = 128
    registers: int = 32
    shared: int = 0
    launch: str = "cudaLaunchKernel"
    communicates: bool = False
    copied: int | None = None  # bytes: a copy, no kernel
    waits: bool = False  # the host, for it

    def event(self, gpu: Gpu) -> tuple[str, dict[str, Any]]:
        """Category and arguments."""
        if self.copied is not None:
            return "gpu_memcpy", {"bytes": self.copied, "memory bandwidth (GB/s)": self.copied / self.us / 1e3}
        per_sm = math.prod(self.grid) / gpu.sms
        return "kernel", {
            "queued": 0, "grid": list(self.grid), "block": [self.block, 1, 1], "registers per thread": self.registers,
            "shared memory": self.shared, "blocks per SM": round(per_sm, 6),
            "warps per SM": round(per_sm * self.block / 32, 6), "est. achieved occupancy %": self._occupancy(gpu),
        }  # fmt: skip

    def _occupancy(self, gpu: Gpu) -> int:
        """Kineto's: of resident CTAs or those there are, whichever is less; 0 above 48 KiB of shared memory."""
        if self.shared > 49152:
            return 0
        by_registers = 4 * (16384 // (-(-self.registers * 32 // 256) * 256)) // (self.block // 32)
        by_shared = int(gpu.properties["sharedMemPerMultiprocessor"]) // (self.shared + 1024)
        resident = min(2048 // self.block, by_registers, by_shared, 32)
        return round(100 * min(resident, math.prod(self.grid) / gpu.sms) * self.block / 2048)


def product(
    name: str, gpu: Gpu, tile: Sequence[int], tiles: tuple[int, int, int], *, half: bool, **rest: Any
) -> Kernel:
    """A kernel of `tiles` (its grid, unless it is persistent), each of (rows, columns, contraction)."""
    rounds = -(-math.prod(tiles) // gpu.sms)
    us = 1.5 + rounds * 2 * math.prod(tile) / (0.6 * gpu.rate(half=half) / gpu.sms) * 1e6
    return Kernel(name, us * gpu.slowdown, **{"grid": tiles, **rest})


def streaming(name: str, gpu: Gpu, bytes_: float, ctas: int, **rest: Any) -> Kernel:
    """A kernel that only reads and writes."""
    us = (1.5 + bytes_ / (0.7 * gpu.bandwidth) * 1e6) * gpu.slowdown
    return Kernel(name, us, grid=(max(1, ctas), 1, 1), **rest)


def gemm(gpu: Gpu, m: int, n: int, k: int, batch: int = 1, *, dtype: str = "bf16") -> Kernel:
    """cuBLAS: nvjet on Hopper, s16816gemm on Ampere, a CUTLASS kernel at half the rate for odd sizes."""
    half = dtype != "fp32"
    if half and (n % 8 or k % 8):
        type_ = dtype.replace("fp", "f")
        name = f"void cutlass::Kernel2<cutlass_80_tensorop_{type_}_s16816gemm_{type_}_128x128_32x3_tn_align1>"
        found = product(name, gpu, (128, 128, k), _tiles(n, m, 128, 128, batch), half=half, registers=238, shared=49152)
        return replace(found, us=2 * found.us)
    large = m * n >= 256 * 128 * gpu.sms
    if gpu.hopper:
        first, second = (128, 256) if large else (64, 64)
        tiles = _tiles(n, m, first, second, batch)
        name = f"nvjet_{_NVJET_TYPES[dtype]}_{first}x{second}_64x4_1x2_h_bz_coopA_TNT"
        found = product(name, gpu, (first, second, k), tiles, half=half, block=384, registers=168, shared=213248)
        return replace(found, grid=(min(math.prod(tiles), gpu.sms), 1, 1), launch="cuLaunchKernelEx")
    first, second = (256, 128) if large else (64, 64)
    prefix = f"ampere_{dtype}_s16816gemm_{dtype}" if half else "ampere_sgemm"
    name = f"{prefix}_{first}x{second}_ldg8_f2f_stages_32x3_tn" if half else f"{prefix}_{first}x{second}_tn"
    if not half and gpu.has_tf32:
        name = f"void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm_{first}x{second}_16x4_tn_align4>"
    tiles = _tiles(n, m, first, second, batch)
    return product(name, gpu, (first, second, k), tiles, half=half, block=256, registers=230, shared=81920)


def _tiles(down: int, across: int, first: int, second: int, batch: int = 1) -> tuple[int, int, int]:
    return -(-down // first), -(-across // second), batch


def _gemm(node: Node, gpu: Gpu, m: int, n: int, k: int, batch: int = 1) -> list[Kernel]:
    return [gemm(gpu, m, n, k, batch, dtype="bf16" if node.bfloat16 else "fp16" if node.half else "fp32")]


def _convolution_kernel(node: Node, gpu: Gpu, pass_: str, m: int, n: int, k: int) -> Kernel:
    """m, n, k of the implicit product; cuDNN's tiles are rows x columns of it."""
    kind = "bf16" if node.bfloat16 else "f16"
    types = f"{kind}{kind}_{kind}f32_f32" if node.half else "tf32f32_tf32f32_f32"
    cut = "tilesize128x128x32_stage4_warpsize2x2x1_g1_" + ("tensor16x8x16" if node.half else "tensor16x8x8")
    name = f"sm80_xmma_{pass_}_implicit_gemm_indexed_{types}_nhwckrsc_nhwc_{cut}_execute_kernel__5x_cudnn"
    if not node.half and not gpu.has_tf32:
        name = f"void implicit_convolve_sgemm<float, float, 128, 5, 5, 3, 3, 3, 1, false, {pass_ == 'fprop'}, true>"
    slices = max(1, gpu.sms // (-(-m // 128) * -(-n // 128))) if pass_ == "wgrad" else 1
    tiles = _tiles(m, n, 128, 128, slices)
    return product(name, gpu, (128, 128, -(-k // slices)), tiles, half=node.half, registers=202, shared=65536)


def _convolution(node: Node, gpu: Gpu) -> list[Kernel]:
    """Of "same" padding."""
    x, w = node.dims[0], node.dims[1]
    pixels = math.prod(-(-size // stride) for size, stride in zip(x[2:], node.numbers(3), strict=True))
    return [_convolution_kernel(node, gpu, "fprop", x[0] * pixels, w[0], math.prod(w[1:]))]


def _convolution_backward(node: Node, gpu: Gpu) -> list[Kernel]:
    y, x, w = node.dims[0], node.dims[1], node.dims[2]
    pixels, taps = x[0] * math.prod(y[2:]), math.prod(w[2:])
    wgrad = _convolution_kernel(node, gpu, "wgrad", w[0], w[1] * taps, pixels)
    if node.args["Concrete Inputs"][10].startswith("[False"):
        return [wgrad]
    return [_convolution_kernel(node, gpu, "dgrad", pixels, w[1], w[0] * taps), wgrad]


def _attention(node: Node, gpu: Gpu) -> list[Kernel]:
    """Of (batch, length, heads, dim), causal: on average half of the keys."""
    b, s, h, d = node.dims[0]
    traits = f"pytorch_flash::Flash_fwd_kernel_traits<{d}, 128, 128, 4, false, false, {_element(node)}>"
    name = f"void pytorch_flash::flash_fwd_kernel<{traits}, false, true, false, false, true, true, false, false>"
    return [product(name, gpu, (128, s // 2, 2 * d), (-(-s // 128), b, h), half=True, registers=255, shared=49152)]


def _attention_backward(node: Node, gpu: Gpu) -> list[Kernel]:
    b, s, h, d = node.dims[0]
    traits = f"pytorch_flash::Flash_bwd_kernel_traits<{d}, 128, 128, 8, 4, 4, 4, false, false, {_element(node)}>"
    tiles, moved = (-(-s // 128), b, h), b * s * h * d * 6
    start = streaming(f"void pytorch_flash::flash_bwd_dot_do_o_kernel<true, {traits} >", gpu, moved, 1, block=256)
    end = streaming(f"void pytorch_flash::flash_bwd_convert_dq_kernel<{traits} >", gpu, moved, 1, block=256)
    name = (
        f"void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<{traits}, false, true, false, false, true>"
    )
    main = product(
        name, gpu, (128, s // 2, 5 * d), tiles, half=True, block=256, registers=255, shared=147456
    )  # five products
    return [replace(start, grid=tiles), main, replace(end, grid=tiles)]


def _element(node: Node) -> str:
    return "cutlass::bfloat16_t" if node.bfloat16 else "cutlass::half_t"


def _elementwise(functor: str) -> Callable[[Node, Gpu], list[Kernel]]:
    def kernels(node: Node, gpu: Gpu) -> list[Kernel]:
        n = math.prod(max(node.dims[:2] or [[]], key=math.prod))
        name = f"void at::native::vectorized_elementwise_kernel<4, {functor}, std::array<char*, 3ul> >"
        return [streaming(name, gpu, n * 3 * (2 if node.half else 4), -(-n // 512))]

    return kernels


def _rows(name: str, bytes_each: float, block: int = 128) -> Callable[[Node, Gpu], list[Kernel]]:
    """A CTA for each row of the first tensor."""

    def kernels(node: Node, gpu: Gpu) -> list[Kernel]:
        n = math.prod(node.dims[0])
        return [streaming(name, gpu, n * bytes_each, n // node.dims[0][-1], block=block, shared=32)]

    return kernels


def _batch_norm(direction: str, bytes_each: float) -> Callable[[Node, Gpu], list[Kernel]]:
    def kernels(node: Node, gpu: Gpu) -> list[Kernel]:
        type_ = "__half" if node.half else "float"
        name = f"void cudnn::batchnorm_{direction}_nhwc_semiPersist<{type_}, {type_}, float, 512, true, 1, 1, 2>"
        bytes_ = math.prod(node.dims[0]) * bytes_each
        return [streaming(name, gpu, bytes_, node.dims[0][1], block=512, registers=40)]

    return kernels


def _layer_norm_backward(node: Node, gpu: Gpu) -> list[Kernel]:
    weights = _OWN + "GammaBetaBackwardCUDAKernelTemplate<float, float, 32u, 1u, 32u, true, true, false, false>"
    of_weights = streaming(weights, gpu, math.prod(node.dims[0]) * 8, node.dims[0][-1] // 32, block=32)
    return [*_rows(_OWN + "layer_norm_grad_input_kernel_vectorized<float, float, false>", 12)(node, gpu), of_weights]


def _copy(node: Node, gpu: Gpu) -> list[Kernel]:
    """FP64 stands for memory of the host."""
    to, of = node.args["Input type"][:2]
    n = math.prod(node.dims[0])
    if of == "double":
        return [Kernel("Memcpy HtoD (Pinned -> Device)", n * 4 / 25e3, copied=n * 4, launch="cudaMemcpyAsync")]
    cast = "bfloat16_copy_kernel_cuda(at::TensorIteratorBase&)::{lambda(float)#1}"
    functor = cast if to != of else "direct_copy_kernel_cuda(at::TensorIteratorBase&)::{lambda()#3}"
    return _elementwise(f"at::native::{functor}")(node, gpu)


def _item(node: Node, gpu: Gpu) -> list[Kernel]:
    return [Kernel("Memcpy DtoH (Device -> Pageable)", 1.5, copied=4, launch="cudaMemcpyAsync", waits=True)]


def _reduce(node: Node, gpu: Gpu) -> list[Kernel]:
    n = math.prod(node.dims[0])
    name = "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::sum_functor<float>, 4, 4> >"
    return [streaming(name, gpu, n * (2 if node.half else 4), n // 65536, block=512, shared=16)]


def _of_index(name: str, argument: int, ctas: int) -> Callable[[Node, Gpu], list[Kernel]]:
    """Reads or writes a row for each element of an argument."""

    def kernels(node: Node, gpu: Gpu) -> list[Kernel]:
        return [streaming(name, gpu, math.prod(node.dims[argument]) * node.dims[0][-1] * 8, ctas)]

    return kernels


def _one_cta(name: str) -> Callable[[Node, Gpu], list[Kernel]]:
    return lambda node, gpu: [streaming(name, gpu, 0, 1)]


def _over_many(node: Node, gpu: Gpu, parameters: Sequence[int]) -> list[Kernel]:
    """Multi-tensor kernels over all parameters, each over at most 320 chunks of 65536 elements."""
    name = node.name.removeprefix("aten::")
    functor, bytes_each = f"BinaryOpScalarFunctor<float, 2, 1, 1>, std::{name}<float>", 12.0
    if name.startswith("_fused_"):
        functor, bytes_each = "FusedAdamMathFunctor<float, 4, (at::native::ADAM_MODE)1, false>", 28.0
    elif name.startswith("_amp_"):
        functor, bytes_each = "UnaryOpFunctor<float, 1, 1, 0>, _amp_foreach_non_finite_check_and_unscale_cuda_", 8.0
    launches = -(-sum(-(-size // 65536) for size in parameters) // 320)
    moved = sum(parameters) * bytes_each / launches
    full = f"{_OWN}multi_tensor_apply_kernel<at::native::(anonymous namespace)::TensorListMetadata<2>, {functor}>"
    return [streaming(full, gpu, moved, 320, block=512, registers=40)] * launches


_NVJET_TYPES = {"bf16": "tst", "fp16": "hsh", "fp32": "sss"}
_OWN = "void at::native::(anonymous namespace)::"
_SOFTMAX = "void at::native::(anonymous namespace)::cunn_SoftMax"
_KERNELS: dict[str, Callable[[Node, Gpu], list[Kernel]]] = {
    **{name: _elementwise("at::native::CUDAFunctor_add<float>") for name in ("add", "add_", "sub")},
    **{name: _elementwise("at::native::BinaryFunctor<float, float, float, MulFunctor>") for name in ("mul", "mul_")},
    **{name: _elementwise("at::native::BinaryFunctor<float, float, float, DivFunctor>") for name in ("div", "div_")},
    **{name: _elementwise("at::native::FillFunctor<float>") for name in ("fill_", "zero_")},
    **{name: _elementwise("at::native::launch_clamp_scalar::{lambda(float)#1}") for name in ("clamp_min_", "relu")},
    "gelu": _elementwise("at::native::GeluCUDAKernelImpl::{lambda(float)#1}"),
    "gelu_backward": _elementwise("at::native::GeluBackwardCUDAKernelImpl::{lambda(float, float)#1}"),
    "threshold_backward": _elementwise("at::native::threshold_kernel_impl<float>::{lambda(float, float)#1}"),
    "mm": lambda node, gpu: _gemm(node, gpu, node.dims[0][0], node.dims[1][1], node.dims[0][1]),
    "addmm": lambda node, gpu: _gemm(node, gpu, node.dims[1][0], node.dims[2][1], node.dims[1][1]),
    "bmm": lambda node, gpu: _gemm(node, gpu, *node.dims[0][1:2], node.dims[1][2], node.dims[0][2], node.dims[0][0]),
    "cudnn_convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "cudnn_batch_norm": _batch_norm("fwtr", 4),
    "cudnn_batch_norm_backward": _batch_norm("bwtr", 6),
    "native_layer_norm": _rows(_OWN + "vectorized_layer_norm_kernel<float, float, false>", 8),
    "native_layer_norm_backward": _layer_norm_backward,
    "_flash_attention_forward": _attention,
    "_flash_attention_backward": _attention_backward,
    "_softmax": _rows(_SOFTMAX + "Forward<4, float, float, float, SoftMaxForwardEpilogue>", 8, 1024),
    "_softmax_backward_data": _rows(_SOFTMAX + "Backward<4, float, float, float, SoftMaxBackwardEpilogue>", 12, 1024),
    "_log_softmax": _rows(_SOFTMAX + "Forward<4, float, float, float, LogSoftMaxForwardEpilogue>", 8, 1024),
    "_log_softmax_backward_data": _rows(_SOFTMAX + "Backward<4, float, float, float, LogSoftMaxBackward>", 12, 1024),
    "nll_loss_forward": _one_cta(_OWN + "nll_loss_forward_reduce_cuda_kernel_2d<float>"),
    "nll_loss_backward": _one_cta(_OWN + "nll_loss_backward_reduce_cuda_kernel_2d<float>"),
    "index_select": _of_index(_OWN + "indexSelectLargeIndex<float, long, unsigned int, 2, 2, -2, true>", 2, 864),
    "embedding_dense_backward": _of_index(_OWN + "compute_grad_weight<float, long>", 1, 1024),
    "max_pool2d_with_indices": _rows(_OWN + "max_pool_forward_nhwc<float, float>", 3, 256),
    "max_pool2d_with_indices_backward": _rows(_OWN + "max_pool_backward_nhwc<float, float>", 4, 256),
    "sum": _reduce,
    "mean": _reduce,
    "_amp_update_scale_": _one_cta("at::native::amp_update_scale_cuda_kernel"),
    "copy_": _copy,
    "_local_scalar_dense": _item,
}  # fmt: skip


def kernels_of(node: Node, gpu: Gpu, parameters: Sequence[int]) -> Sequence[Kernel]:
    """The kernels that an operator itself launches; those inside of it launch their own. `parameters`: their sizes."""
    if node.launches is not None:
        return node.launches
    name = node.name.removeprefix("aten::")
    if name in _KERNELS and node.name != name:
        return _KERNELS[name](node, gpu)
    return _over_many(node, gpu, parameters) if name.startswith(("_foreach_", "_fused_", "_amp_foreach_")) else ()
