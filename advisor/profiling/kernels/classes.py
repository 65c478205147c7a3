"""What kind of work a kernel does: from its name, and where that says little from the operator that launched it.

Choices that a reader may not expect:

- A kernel that only serves a convolution (offsets, Winograd and Fourier transforms, split-K sums), and a plain product
  inside one (Winograd, Fourier), belong to the convolution's pass.
- Softmax, losses and norms of whole tensors are reductions; fused attention takes its own softmax with it.
- Pooling, resampling, sorting, scans and recurrent cells are "other": memory-bound, and none of the classes.
- Gathering, scattering and permuting by index is "embedding"; casts, transposes and concatenations are "copy".
- In the optimizer's phase all but products and communication is "optimizer".
- An elementwise kernel or reduction of PyTorch inside a normalisation or an embedding belongs to that operator.
"""

from __future__ import annotations

import re
from functools import lru_cache

from advisor.kernel_names import parse_kernel_name
from advisor.profiling.records import KernelClass, Operation, Phase

_PRODUCTS = frozenset({"gemm", "gemv", "split-K reduction"})
_CONVOLUTIONS: frozenset[str] = frozenset({"fprop", "dgrad", "wgrad", "conv"})
_LONGEST = 2048  # characters read of a name: some patterns take quadratic time

# The first class that has a pattern in the kernel's name counts. Copies and gathers are made of PyTorch's elementwise
# kernels, and so come before those; patterns are regular expressions, apart by blanks.
_PATTERNS: dict[KernelClass, str] = {
    "communication": r"""
        nccl\w*Kernel nvshmem deep_?ep:: cross_device_reduce (?:one|two|multi)_?shot_\w*(?:reduce|gather)
        multimem_ symm_mem all_?(?:reduce|gather|to_?all)\w*kernel allreduce userbuffers mscclpp? lamport
        """,
    "optimizer": r"""
        multi_tensor_apply_kernel(?!.*CopyFunctor) Fused(?:Adam|Sgd|SGD|Adagrad) fused_?adam adam_?w?_?kernel
        AdamFunctor SGDFunctor
        LAMB(?!DA) [lL]amb[sS]tage k(?:Precondition)?Optimizer _amp_(?:foreach|update) amp_update_scale adafactor
        """,
    "embedding": r"""
        (?<!otary_)[eE]mbedding permute_(?:pooled|indices|[12]D) bounds_check_indices linearize_index index_?[sS]elect
        indexFunc index_elementwise_kernel index_put index_kernel gpu_index indexing_backward [sS]catter
        [gG]ather(?!TopK)
        compute_grad_weight krn_partial _offsets_range segment_(?:sum|reduce|lengths) jagged block_bucketize \btake_
        \bput_kernel masked_select lxu_cache repeat_interleave compute_cuda_kernel expand_into_jagged
        """,
    "normalisation": r"""
        bn_(?:fw|bw) [bB]atch_?[nN]orm [lL]ayer_?[nN]orm [gG]roup_?[nN]orm [iI]nstance_?[nN]orm [rR][mM][sS]_?[nN]orm
        RowwiseMoments GammaBeta \b_?ln_(?:fwd|bwd) Compute\w*FusedParams ComputeInternalGradients
        cuCompute(?:GradInput|PartGrad|GradGamma) [wW]elford(?!Ops) weight_norm
        """,
    "copy": r"""
        nchwToNhwc nhwcToNchw nchw2nhwc nhwc2nchw [tT]ranspose CatArray \bcat_ direct_copy copy_device_to_device
        copy_kernel convertTensor (?<!broad)cast_ permuteTensor permutationKernel AddPadding
        chunk_cat split_with_sizes [qQ]uantize FP8rowwise FP8_q hfp8 \broll_cuda flip_kernel tril_ triu_
        constant_pad reflection_pad replication_pad reshape_and_cache VectorQuant (?:group|token)_quant
        fp8_quant static_quant fp8_cast tensorTransform CopyFunctor
        """,
    "other": r"""
        [pP]ool [uU]psample interpolat [sS]ort topk TopK DeviceScan [sS]canKernel \bscan_ RNN LSTM GRU bincount
        [hH]istogram [uU]nique \bnms roi_?align RoIAlign grid_sampl ReduceByKey DeviceCompact searchsorted ctc_loss
        causal_conv1d selective_scan chunk_(?:scan|state) tensor_kernel_scan
        """,
    "reduction": r"""
        reduce_kernel ReduceKernel reduceKernel DeviceReduce [sS]oft_?[mM]ax [cC]ross_?[eE]ntropy [nN][lL][lL]_?[lL]oss
        ClassNLL l2_?norm lpnorm norm_kernel arg(?:max|min) cumsum logsumexp BiasGrad bias_grad dbias
        \bamax_kernel moe_sum calc_bias_diff kernel(?:Transform)?Reduce
        """,
    "elementwise": r"""
        elementwise [pP]ointwise [dD]ropout distribution_ Functor [gG][eE][lL][uU] silu [sS]wi[gG][lL][uU] relu sigmoid
        tanh \brope _rope [rR]otary act_and_mul \bd?gated_(?:act_)?kernel masked_scale [aA]ctivation clamp
        bias_add add_bias fill_ arange linspace
        [pP]hilox uniform_ masked_fill op_?[tT]ensor OpTensor lerp addcmul mse_loss smooth_l1 binary_cross FillKernel
        """,
}
_BY_NAME = {class_: re.compile("|".join(patterns.split())) for class_, patterns in _PATTERNS.items()}

# torch.compile's kernels name what they fuse: triton_red_fused_native_layer_norm_7. The prefix is the kind of loop.
_INDUCTOR = re.compile(r"^triton_(?P<loop>poi|red|per|for|unk|mix|split_scan)_fused_?(?P<fused>\w*?)_?\d*$")
_NORM = re.compile(r"(?<!vector_)norm|var_mean|welford")
_MOVES = re.compile(
    r"^(?:_?(?:to_copy|copy|clone|cat|view|t|transpose|permute|expand|slice|convert_element_type|unsqueeze|squeeze|stack|"
    r"reshape|constant_pad_nd|split|select|detach|_unsafe_view)(?:_|$))+$"
)
_OPERATORS: tuple[tuple[KernelClass, re.Pattern[str]], ...] = (
    ("communication", re.compile(r"nccl|c10d|all_?reduce|all_?gather|reduce_scatter|all_?to_?all|_coalesced")),
    ("conv", re.compile(r"conv(?!ert)", re.IGNORECASE)),
    ("attention", re.compile(r"attention|sdpa|flash|fmha", re.IGNORECASE)),
    ("gemm", re.compile(r"::(?:mm|bmm|addmm|addbmm|baddbmm|linear|matmul|addmv|mv|dot|_scaled_mm|_grouped_mm)\b")),
    ("embedding", re.compile(r"embedding|index_select|gather|scatter|index_put|::index\b", re.IGNORECASE)),
    ("normalisation", re.compile(r"(?:batch|layer|group|instance|rms)_?norm", re.IGNORECASE)),
    ("optimizer", re.compile(r"^Optimizer\.|_fused_(?:adam|sgd|adagrad)|_foreach_|_amp_", re.IGNORECASE)),
    ("copy", re.compile(r"::(?:copy_|_to_copy|to|clone|contiguous|cat|stack|constant_pad_nd)\b")),
    ("reduction", re.compile(r"softmax|nll_loss|cross_entropy|::(?:sum|mean|norm|var|std|a?max|a?min|argmax|prod)\b")),
)  # fmt: skip


def classify(name: str, operation: Operation | None, phase: Phase) -> KernelClass:
    """The class of one kernel, launched by `operation` (None: not found) in `phase`."""
    told = parse_kernel_name(name)
    if told.operation == "attention":
        return "attention"
    if told.operation in _CONVOLUTIONS:
        return _pass(told.operation, operation)
    operator = _operator_class(operation.name) if operation is not None else None
    if told.operation in _PRODUCTS:
        return _pass("conv", operation) if operator == "conv" else "gemm"
    class_ = class_by_name(name)
    if class_ is None:
        class_ = _pass("conv", operation) if operator == "conv" else operator
    elif class_ in {"elementwise", "reduction", "other"} and operator in {"normalisation", "embedding"}:
        class_ = operator
    if phase == "optimizer" and class_ not in {"communication", "gemm"}:
        return "optimizer"
    return class_ or "other"


@lru_cache(maxsize=65536)
def class_by_name(name: str) -> KernelClass | None:
    """The class that a name tells of a kernel that is no product; None: it tells nothing."""
    inductor = _INDUCTOR.search(name[:_LONGEST])
    if inductor is not None:
        return _inductor_class(inductor["loop"], inductor["fused"])
    return next((class_ for class_, pattern in _BY_NAME.items() if pattern.search(name, 0, _LONGEST)), None)


def _inductor_class(loop: str, fused: str) -> KernelClass:
    if loop in {"red", "per"}:
        return "normalisation" if _NORM.search(fused) else "reduction"
    if loop == "split_scan":
        return "other"
    if "embedding" in fused:
        return "embedding"
    return "copy" if _MOVES.match(fused) else "elementwise"


@lru_cache(maxsize=4096)
def _operator_class(operator: str) -> KernelClass | None:
    return next((class_ for class_, pattern in _OPERATORS if pattern.search(operator)), None)


def _pass(by_name: str | None, operation: Operation | None) -> KernelClass:
    """The pass of a convolution's kernel: the operation's, else what its operator's name says, else the kernel's.

    cuDNN computes gradients of inputs by forward kernels too, so the kernel's own name comes last.
    """
    if operation is not None:
        if operation.product is not None and operation.product.kind == "conv" and operation.product.pass_ is not None:
            return operation.product.pass_
        if "backward_input" in operation.name:
            return "dgrad"
        if "backward_weight" in operation.name:
            return "wgrad"
        if operation.phase == "forward" and _operator_class(operation.name) == "conv":
            return "fprop"
    told: dict[str | None, KernelClass] = {"fprop": "fprop", "dgrad": "dgrad", "wgrad": "wgrad"}
    return told.get(by_name, "conv")
