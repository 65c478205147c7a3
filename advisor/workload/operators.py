"""What an ATen operator is to a GPU: its kind, dims, least traffic, FLOPs and launches. Imports no torch.

Tensors are known here by shape, strides and item size alone. FLOPs follow torch.utils.flop_counter (a multiply-add
counts 2; element-wise work counts nothing), except that a grouped convolution's weight gradient counts its true work:
the counter of PyTorch 2.13 multiplies it by the number of groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from advisor.workload.schema import Kind

FREE_OPERATORS = frozenset({  # move no data on a GPU, or run on the host
    "_unsafe_view", "_reshape_alias", "lift_fresh", "lift", "lift_fresh_copy", "detach", "alias", "empty", "empty_like",
    "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "sym_size", "sym_stride", "sym_numel",
    "sym_storage_offset", "is_same_size", "resize_", "set_", "_local_scalar_dense", "scalar_tensor", "result_type",
    "_nested_tensor_size", "device", "layout", "size", "stride", "storage_offset", "is_contiguous", "record_stream",
    "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "as_strided_", "transpose_", "t_", "squeeze_",
    "unsqueeze_", "detach_", "_assert_async", "_assert_tensor_metadata", "_assert_scalar",
})  # fmt: skip

_KINDS: dict[Kind, tuple[str, ...]] = {
    "batch_norm": ("native_batch_norm", "native_batch_norm_backward", "_native_batch_norm_legit", "batch_norm_backward",
                   "_native_batch_norm_legit_no_training", "_batch_norm_with_update", "_batch_norm_no_update",
                   "cudnn_batch_norm", "cudnn_batch_norm_backward"),
    "norm": ("native_layer_norm", "native_layer_norm_backward", "native_group_norm", "native_group_norm_backward",
             "_fused_rms_norm", "_fused_rms_norm_backward"),
    "softmax": ("_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data", "logsumexp",
                "_safe_softmax"),
    "reduction": ("sum", "mean", "var", "std", "var_mean", "std_mean", "amax", "amin", "aminmax", "max", "min", "norm",
                  "linalg_vector_norm", "prod", "argmax", "argmin", "any", "all", "cumsum", "cumprod", "topk", "sort",
                  "nansum", "median", "count_nonzero"),
    "pool": ("max_pool2d_with_indices", "max_pool2d_with_indices_backward", "avg_pool2d", "avg_pool2d_backward",
             "_adaptive_avg_pool2d", "_adaptive_avg_pool2d_backward", "adaptive_max_pool2d",
             "adaptive_max_pool2d_backward", "max_pool3d_with_indices", "max_pool3d_with_indices_backward",
             "avg_pool3d", "avg_pool3d_backward", "_adaptive_avg_pool3d", "_adaptive_avg_pool3d_backward",
             "max_pool2d", "max_unpool2d"),
    "embedding": ("embedding", "embedding_dense_backward", "index", "index_select", "gather", "index_put",
                  "index_put_", "_index_put_impl_", "_unsafe_index_put", "_unsafe_index", "scatter", "scatter_",
                  "scatter_add", "scatter_add_", "index_add", "index_add_", "index_select_backward", "take",
                  "gather_backward", "_embedding_bag", "_embedding_bag_dense_backward"),
    "copy": ("_to_copy", "clone", "copy_", "copy", "cat", "stack", "constant_pad_nd", "repeat", "roll", "flip",
             "slice_backward", "select_backward", "as_strided_scatter", "slice_scatter", "select_scatter",
             "diagonal_backward", "unfold_backward", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
             "reflection_pad2d", "reflection_pad2d_backward", "replication_pad2d", "replication_pad2d_backward",
             "reflection_pad1d", "reflection_pad1d_backward", "im2col", "col2im", "contiguous", "_pad_circular",
             "repeat_interleave", "tril", "triu"),
    "loss": ("nll_loss_forward", "nll_loss_backward", "nll_loss2d_forward", "nll_loss2d_backward", "mse_loss",
             "mse_loss_backward", "smooth_l1_loss", "smooth_l1_loss_backward", "huber_loss", "huber_loss_backward",
             "binary_cross_entropy", "binary_cross_entropy_backward", "binary_cross_entropy_with_logits",
             "_ctc_loss", "_ctc_loss_backward", "soft_margin_loss", "soft_margin_loss_backward"),
    "elementwise": ("native_dropout", "native_dropout_backward", "fill_", "zero_", "zeros", "ones", "full", "arange",
                    "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "bernoulli_",
                    "bernoulli", "uniform_", "normal_", "rand", "randn", "rand_like", "randn_like", "randint",
                    "exponential_", "linspace", "eye", "_prelu_kernel", "_prelu_kernel_backward", "glu",
                    "glu_backward", "glu_jvp", "rrelu_with_noise", "masked_fill", "masked_fill_", "where"),
}  # fmt: skip
KIND_OF: dict[str, Kind] = {name: kind for kind, names in _KINDS.items() for name in names}

# Tensor arguments that the CUDA kernel does not read, by position.
_UNREAD: dict[str, tuple[int, ...]] = {
    "max_pool2d_with_indices_backward": (1,),
    "max_pool3d_with_indices_backward": (1,),
    "avg_pool2d_backward": (1,),
    "avg_pool3d_backward": (1,),
    "_adaptive_avg_pool2d_backward": (1,),
    "_adaptive_avg_pool3d_backward": (1,),
    "adaptive_max_pool2d_backward": (1,),
    "nll_loss_forward": (0,),  # one element per row: less than its target
    "nll_loss2d_forward": (0,),
    "nll_loss_backward": (1,),
    "nll_loss2d_backward": (1,),
    "reflection_pad2d_backward": (1,),
    "reflection_pad1d_backward": (1,),
    "replication_pad2d_backward": (1,),
    **dict.fromkeys(("copy_", "fill_", "zero_", "bernoulli_", "uniform_", "normal_", "exponential_", "zeros_like",
                     "ones_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_full"), (0,)),
}  # fmt: skip

# Gathers read what they write (and the indices), not the whole table.
_GATHERS = frozenset({"embedding", "index", "index_select", "gather", "_unsafe_index", "take"})

# Kernels one call launches on CUDA where it is not one (PyTorch's eager mode, counted in its sources).
_KERNELS = {
    "native_layer_norm_backward": 2,  # input gradient; weight and bias gradients
    "native_group_norm": 3,  # moments, fused scale and shift, transform
    "native_group_norm_backward": 4,
    "_fused_rms_norm_backward": 2,
    "native_batch_norm": 2,  # statistics, transform
    "native_batch_norm_backward": 2,
    "embedding_dense_backward": 6,  # sort of the indices, zeros, segmented sums
    "index_put": 6,
    "index_put_": 6,
    "_index_put_impl_": 6,
    "_unsafe_index_put": 6,
    "slice_backward": 2,  # zeros, copy
    "select_backward": 2,
    "max_pool2d_with_indices_backward": 2,  # zeros, scatter
    "nll_loss_backward": 2,
    "nll_loss2d_backward": 2,
    "topk": 3,
    "sort": 3,
    "cumsum": 2,
    "flip": 1,
}

# Operators whose CUDA version makes its tensor arguments contiguous first (a copy where they are not).
NEEDS_CONTIGUOUS = frozenset({
    "native_layer_norm", "native_layer_norm_backward", "_softmax", "_softmax_backward_data", "_log_softmax",
    "_log_softmax_backward_data", "_fused_rms_norm", "_fused_rms_norm_backward", "embedding_dense_backward",
    "native_group_norm", "native_group_norm_backward",
})  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """What the accounting needs to know about a tensor."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int  # bytes
    dtype: str = "fp32"

    @property
    def numel(self) -> int:
        """Elements, counting an expanded (stride 0) dimension in full."""
        return prod(self.shape)

    @property
    def traffic_bytes(self) -> int:
        """Bytes that reading it once moves: an expanded dimension counts once."""
        elements = 1
        for size, stride in zip(self.shape, self.strides, strict=True):
            if stride or not size:
                elements *= size
        return elements * self.itemsize

    @property
    def contiguous(self) -> bool:
        """Row-major without gaps."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size == 0:
                return True
            if size != 1:
                if stride != expected:
                    return False
                expected *= size
        return True

    @property
    def channels_last(self) -> bool:
        """Whether its strides say channels_last, by the rule of c10::is_channels_last_strides_2d."""
        if len(self.shape) != 4 or self.strides[1] == 0:
            return False
        least = 0
        for dim in (1, 3, 2, 0):
            size, stride = self.shape[dim], self.strides[dim]
            if size == 0 or stride < least or (dim == 0 and least == self.strides[1]):
                return False
            least = stride * size if size > 1 else stride
        return True

    def contiguous_in(self, channels_last: bool) -> bool:
        """Dense in the given memory format."""
        if not channels_last:
            return self.contiguous
        order = (0, 2, 3, 1)
        permuted = TensorInfo(
            tuple(self.shape[d] for d in order), tuple(self.strides[d] for d in order), self.itemsize, self.dtype
        )
        return permuted.contiguous


@dataclass(frozen=True)
class RawOp:
    """One operation at one batch size."""

    kind: Kind
    name: str
    phase: str
    dtype: str
    read_bytes: int
    write_bytes: int
    flops: int = 0
    kernels: int = 1
    dims: Mapping[str, int] = field(default_factory=dict)
    layer: int = 0


def kind_of(name: str, pointwise: bool, out: Sequence[TensorInfo], inputs: Sequence[TensorInfo]) -> Kind:
    """The kind of an operator without dims: from the table, its pointwise tag, or its shapes."""
    kind = KIND_OF.get(name) or KIND_OF.get(name.removesuffix("_"))
    if kind:
        return kind
    largest = max((t.numel for t in inputs), default=0)
    if pointwise or (out and largest and max(t.numel for t in out) == largest and not name.startswith("upsample")):
        return "elementwise"
    return "other"


def memory_bound(
    name: str,
    inputs: Sequence[TensorInfo | None],
    outputs: Sequence[TensorInfo],
    in_place: Sequence[TensorInfo],
    *,
    pointwise: bool,
) -> dict[str, Any]:
    """Kind, traffic and launches of an operator that only moves data.

    `inputs` are the tensor arguments by position (None: not a tensor, or absent), `outputs` the newly allocated
    results, `in_place` the arguments written to.
    """
    unread = _UNREAD.get(name, ())
    read = [t for i, t in enumerate(inputs) if t is not None and i not in unread]
    write_bytes = sum(t.traffic_bytes for t in (*outputs, *in_place))
    if name in _GATHERS:
        read_bytes = sum(t.traffic_bytes for t in read[1:]) + sum(t.traffic_bytes for t in outputs)
    else:
        read_bytes = sum(t.traffic_bytes for t in read)
    floating = [t for t in inputs if t is not None and t.dtype in ("fp64", "fp32", "fp16", "bf16")]
    known = floating or read or list(outputs) or list(in_place)
    kernels = _KERNELS.get(name, 1)
    if name == "cat":
        kernels = -(-sum(t is not None for t in inputs) // 128)  # CatArrayBatchedCopy takes up to 128 tensors
    return {
        "kind": kind_of(name, pointwise, [*outputs, *in_place], read),
        "dtype": known[0].dtype if known else "fp32",
        "read_bytes": read_bytes,
        "write_bytes": write_bytes,
        "kernels": kernels,
    }


def matrix_operand(t: TensorInfo, name: str) -> tuple[int, bool]:
    """(transposed, needs a copy) of a matrix product's operand, from its last two strides."""
    rows, columns = t.shape[-2:]
    row_stride, column_stride = t.strides[-2:]
    if column_stride == 1 and row_stride >= max(1, columns):
        return 0, False
    if row_stride == 1 and column_stride >= max(1, rows):
        return 1, False
    if rows == 1 or columns == 1:
        return (0, False) if column_stride == 1 or (columns == 1 and row_stride >= 1) else (0, row_stride != 1)
    return 0, True


def matrix_product(name: str, a: TensorInfo, b: TensorInfo, out: TensorInfo, bias: TensorInfo | None) -> dict[str, Any]:
    """C[m, n] = A[m, k] B[k, n], also in batches; `a_t`: A is stored k x m; `b_t`: B is stored n x k."""
    batched = len(a.shape) == 3
    m, k = a.shape[-2:]
    n = b.shape[-1]
    batch = a.shape[0] if batched else 1
    dims = {"batch": batch} if batched else {}
    dims |= {"m": m, "n": n, "k": k, "a_t": matrix_operand(a, name)[0], "b_t": matrix_operand(b, name)[0]}
    return {
        "kind": "bmm" if batched else "gemm",
        "dtype": a.dtype,
        "read_bytes": a.traffic_bytes + b.traffic_bytes + (bias.traffic_bytes if bias else 0),
        "write_bytes": out.traffic_bytes,
        "flops": 2 * batch * m * n * k,
        "dims": dims,
    }


@dataclass(frozen=True)
class Convolution:
    """A convolution as its forward pass sees it: x[n, c, h, w], weight[k, c / groups, r, s], y[n, k, p, q].

    Of a transposed convolution, x is its output and y its input. 1-D ones have h = r = p = 1; 3-D ones fold the
    depth into n and, in the filter, into c, and keep it in `depth`, `out_depth` and `t`.
    """

    n: int
    c: int
    k: int
    spatial: tuple[int, ...]
    out_spatial: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def flops(self) -> int:
        """Of any one of the three passes."""
        return 2 * self.n * prod(self.out_spatial) * self.k * (self.c // self.groups) * prod(self.window)

    def dims(self) -> dict[str, int]:
        """Named as the workload schema names them."""

        def two(values: tuple[int, ...], fill: int) -> tuple[int, int]:
            return (fill, values[0]) if len(values) == 1 else (values[-2], values[-1])

        (h, w), (p, q), (r, s) = two(self.spatial, 1), two(self.out_spatial, 1), two(self.window, 1)
        stride, padding, dilation = two(self.stride, 1), two(self.padding, 0), two(self.dilation, 1)
        dims = {"n": self.n, "c": self.c, "h": h, "w": w, "k": self.k, "p": p, "q": q, "r": r, "s": s,
                "stride_h": stride[0], "stride_w": stride[1], "pad_h": padding[0], "pad_w": padding[1],
                "dilation_h": dilation[0], "dilation_w": dilation[1], "groups": self.groups}  # fmt: skip
        if len(self.spatial) == 3:
            dims |= {"depth": self.spatial[0], "out_depth": self.out_spatial[0], "t": self.window[0]}
        return dims


def attention(q: TensorInfo, k: TensorInfo, v: TensorInfo, causal: bool) -> tuple[dict[str, int], int]:
    """(dims, FLOPs of the forward pass) of fused attention over [batch, heads, length, head dim] tensors."""
    batch, heads, q_len, head_dim = q.shape
    kv_len, value_dim = v.shape[-2:]
    dims = {"batch": batch, "heads": heads, "q_len": q_len, "kv_len": kv_len, "head_dim": head_dim,
            "value_dim": value_dim, "causal": int(causal)}  # fmt: skip
    return dims, 2 * batch * heads * q_len * kv_len * (head_dim + value_dim)


def attention_backward_flops(q: TensorInfo, v: TensorInfo) -> int:
    """Five products: the scores again, then the gradients of scores, values, queries and keys."""
    batch, heads, q_len, head_dim = q.shape
    kv_len, value_dim = v.shape[-2:]
    return 2 * batch * heads * q_len * kv_len * (3 * head_dim + 2 * value_dim)


def flatten(values: Any) -> Iterator[Any]:
    """Every leaf of nested lists and tuples, in order."""
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from flatten(value)
    else:
        yield values
