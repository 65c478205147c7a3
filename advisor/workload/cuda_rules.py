"""What PyTorch does on CUDA, imposed on tensors that live nowhere: autocast's lists, dropout, attention.

Autocast's CPU lists differ from CUDA's, so a trace under CPU autocast alone would be wrong. This mode sees each call
of the Python API, applies CUDA's policy for that operator, and leaves the FP16 casts (with autocast's weight cache) to
CPU autocast. Lists: PyTorch's "Automatic Mixed Precision package", CUDA Op-Specific Behavior, and
ATen/autocast_mode.h of PyTorch 2.13.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_FP16_NOT_ON_CPU = frozenset({
    "prelu", "addmv", "addr", "mv", "einsum", "chain_matmul", "multi_dot", "linalg_multi_dot", "conv_tbc",
    "gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell", "_convolution", "convolution",
})  # fmt: skip
_FP32 = frozenset({
    "__pow__", "__rpow__", "pow", "acos", "asin", "arccos", "arcsin", "binary_cross_entropy_with_logits", "cosh",
    "cosine_embedding_loss", "cdist", "cosine_similarity", "dist", "erfinv", "exp", "expm1", "group_norm",
    "hinge_embedding_loss", "kl_div", "l1_loss", "layer_norm", "native_layer_norm", "rms_norm", "log", "log10",
    "log1p", "log2", "logsumexp", "margin_ranking_loss", "mse_loss", "multilabel_margin_loss", "multi_margin_loss",
    "nll_loss", "nll_loss2d", "nll_loss_nd", "pdist", "poisson_nll_loss", "reciprocal", "rsqrt", "sinh",
    "smooth_l1_loss", "huber_loss", "soft_margin_loss", "softplus", "tan", "triplet_margin_loss", "renorm",
    "frobenius_norm", "nuclear_norm", "upsample_nearest1d", "_upsample_nearest_exact1d", "upsample_nearest2d",
    "_upsample_nearest_exact2d", "upsample_nearest3d", "_upsample_nearest_exact3d", "upsample_linear1d",
    "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_trilinear3d", "upsample_bicubic2d",
    "_upsample_bicubic2d_aa",
    "square", "pairwise_distance",  # written in C++ with pow and norm, which autocast sees inside of them
})  # fmt: skip
# These take an output dtype; CUDA's kernels convert while they read, without a cast of their own.
_FP32_OUTPUT = frozenset({
    "prod", "cumprod", "cumsum", "sum", "norm", "linalg_vector_norm", "linalg_matrix_norm", "linalg_norm",
})  # fmt: skip
_PROMOTE = frozenset({
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "linalg_cross", "dot", "vdot", "grid_sampler", "index_put",
    "tensordot", "scatter_add",
})  # fmt: skip
# On the CPU's FP32 list but on none of CUDA's: run in the type they are given.
_NOT_ON_CUDA = frozenset({
    "avg_pool3d", "max_pool3d", "adaptive_avg_pool3d", "adaptive_max_pool3d", "fractional_max_pool2d",
    "fractional_max_pool3d", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", "pad", "quantile", "nanquantile", "stft", "trace",
    "polar", "view_as_complex", "cholesky", "cholesky_inverse", "cholesky_solve", "inverse", "max_unpool2d",
    "max_unpool3d", "ctc_loss", "logdet", "ormqr", "orgqr", "pinverse", "fft_fft", "fft_ifft", "fft_fft2",
    "fft_ifft2", "fft_fftn", "fft_ifftn", "fft_rfft", "fft_irfft", "fft_rfft2", "fft_irfft2", "fft_rfftn",
    "fft_irfftn", "fft_hfft", "fft_ihfft", "linalg_inv", "linalg_svd", "linalg_qr", "linalg_eigh", "linalg_cond",
    "linalg_det", "linalg_slogdet", "linalg_solve", "linalg_lstsq", "linalg_pinv", "linalg_matrix_rank",
    "binary_cross_entropy",
})  # fmt: skip

_RNN_MODES = {"rnn_relu": 0, "rnn_tanh": 1, "lstm": 2, "gru": 3}  # cudnnRNNMode_t

_HALF = (torch.float16, torch.bfloat16)
_OVERRIDE_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


class CudaRules(TorchFunctionMode):
    """Run Python-level calls as CUDA would.

    `amp`: autocast's casts apply (unless user code turned autocast off). `fused`: attention runs in one fused
    kernel; otherwise as matrix products and a softmax. `attention_seen` tells whether any was called.
    """

    def __init__(self, *, amp: bool, fused: bool) -> None:
        super().__init__()
        self.amp = amp
        self.fused = fused
        self.attention_seen = False
        self._inside: list[types.FunctionType] = []
        self._special: dict[str, Callable[..., Any]] = {
            **dict.fromkeys(("softmax", "special_softmax"), self._softmax),
            **dict.fromkeys(("log_softmax", "special_log_softmax"), self._log_softmax),
            "cross_entropy_loss": self._cross_entropy,
            "dropout": self._dropout,
            "scaled_dot_product_attention": self._attention,
            "group_norm": self._group_norm,
            "rms_norm": self._rms_norm,
            **dict.fromkeys(_RNN_MODES, self._rnn),
        }

    def __torch_function__(
        self, func: Any, types_: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Apply the policy of the called function; Python functions are entered, built-in ones run."""
        kwargs = kwargs or {}
        if isinstance(func, types.FunctionType):
            body = _body(func)
            if body is None or func in self._inside:  # its helper passes the call on once more
                return func(*args, **kwargs)
            self._inside.append(func)
            try:
                with self:
                    return body(*args, **kwargs)
            finally:
                self._inside.pop()
        name = getattr(func, "__name__", "")
        if name in ("cuda", "pin_memory") and isinstance(args[0], torch.Tensor):
            return args[0]  # the tensors' device, the CPU, stands for the GPU
        if name == "to":
            args = tuple("cpu" if _is_cuda(a) else a for a in args)
        if "device" in kwargs:
            kwargs = {**kwargs, "device": "cpu"}
        special = self._special.get(name)
        if special is not None and "out" not in kwargs:
            return special(func, *args, **kwargs)
        if self._autocasting():
            return _autocast(func, name, args, kwargs)
        return func(*args, **kwargs)

    def _autocasting(self) -> bool:
        """User code may turn autocast off for "cpu" (its tensors' device here) or for "cuda"."""
        return self.amp and torch.is_autocast_enabled("cpu") and torch.is_autocast_enabled("cuda")

    def _softmax(
        self, func: Any, x: torch.Tensor, dim: Any = None, dtype: Any = None, *_: Any, **kwargs: Any
    ) -> torch.Tensor:
        dim = kwargs.get("dim", dim)
        to_fp32 = dtype is torch.float32 or (dtype is None and self._autocasting())
        if to_fp32 and _is_half(x):  # CUDA's kernel reads FP16 and writes FP32
            return _quietly(torch.ops.aten._softmax.default, x, dim, True)  # type: ignore[no-any-return]
        return _exactly(func, (x, dim), {"dtype": dtype})  # type: ignore[no-any-return]

    def _log_softmax(
        self, func: Any, x: torch.Tensor, dim: Any = None, dtype: Any = None, *_: Any, **kwargs: Any
    ) -> torch.Tensor:
        dim = kwargs.get("dim", dim)
        to_fp32 = dtype is torch.float32 or (dtype is None and self._autocasting())
        if to_fp32 and _is_half(x):
            return _quietly(torch.ops.aten._log_softmax.default, x, dim, True)  # type: ignore[no-any-return]
        return _exactly(func, (x, dim), {"dtype": dtype})  # type: ignore[no-any-return]

    def _cross_entropy(
        self,
        func: Any,
        x: torch.Tensor,
        target: torch.Tensor,
        weight: Any = None,
        reduction: int = 1,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> torch.Tensor:
        if label_smoothing or target.is_floating_point() or weight is not None or x.dim() < 2:
            half_safe = _cast((x,), torch.float32)[0] if self._autocasting() else x
            return _exactly(func, (half_safe, target, weight, reduction, ignore_index, label_smoothing), {})  # type: ignore[no-any-return]
        log_p = self._log_softmax(torch.log_softmax, x, 1)
        return _exactly(torch._C._nn.nll_loss_nd, (log_p, target, None, reduction, ignore_index), {})  # type: ignore[no-any-return]

    def _dropout(self, func: Any, x: torch.Tensor, p: float = 0.5, train: bool = True, **kwargs: Any) -> torch.Tensor:
        p, train = kwargs.get("p", p), kwargs.get("train", train)
        if train and 0 < p < 1:  # one kernel on CUDA, saving a mask of one byte per element
            return torch.native_dropout(x, p, True)[0]
        return func(x, p, train)  # type: ignore[no-any-return]

    def _group_norm(
        self, func: Any, x: torch.Tensor, groups: int, weight: Any = None, bias: Any = None, *rest: Any, **kwargs: Any
    ) -> torch.Tensor:
        if self._autocasting():
            x, weight, bias = _cast((x, weight, bias), torch.float32)
        # CUDA's kernel knows row-major tensors only, and so is its result (ATen/native/group_norm.cpp).
        return _exactly(func, (x.contiguous(), groups, weight, bias, *rest), kwargs)  # type: ignore[no-any-return]

    def _rms_norm(self, func: Any, x: torch.Tensor, shape: Any, weight: Any = None, eps: Any = None) -> torch.Tensor:
        if self._autocasting():
            x, weight = _cast((x, weight), torch.float32)
        fused = getattr(torch.ops.aten, "_fused_rms_norm", None)  # PyTorch 2.9 and later
        if fused is None:
            return _exactly(func, (x, shape, weight, eps), {})  # type: ignore[no-any-return]
        return _quietly(fused.default, x, list(shape), weight, eps)[0]  # type: ignore[no-any-return]

    def _rnn(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """A recurrent layer as cuDNN runs it: all its time steps, layers and directions in one operator."""
        if kwargs or len(args) != 9 or isinstance(args[3], torch.Tensor):  # packed sequences
            return func(*args, **kwargs)
        x, hx, weights, _biased, layers, dropout, train, both_ways, batch_first = args
        h, c = hx if isinstance(hx, (list, tuple)) else (hx, None)
        if self._autocasting():
            x, h, c, weights = _cast((x, h, c, list(weights)), torch.get_autocast_dtype("cpu"))
        is_lstm = c is not None
        hidden = h.size(-1) if not is_lstm else c.size(-1)
        out, hy, cy, _, _ = _quietly(
            torch.ops.aten._cudnn_rnn.default, x, weights, len(weights) // (layers * (1 + both_ways)), None, h, c,
            _RNN_MODES[func.__name__], hidden, h.size(-1) if h.size(-1) != hidden else 0, layers, batch_first,
            dropout, train, both_ways, [], None,
        )  # fmt: skip
        return (out, hy, cy) if is_lstm else (out, hy)

    def _attention(
        self,
        func: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        self.attention_seen = True
        if self._autocasting():
            half = torch.get_autocast_dtype("cpu")
            query, key, value, attn_mask = _cast((query, key, value, attn_mask), half)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.where(attn_mask, 0.0, float("-inf")).to(query.dtype)
        squeeze = query.dim() == 3
        if squeeze:
            query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
            attn_mask = attn_mask.unsqueeze(1) if attn_mask is not None and attn_mask.dim() == 3 else attn_mask
        repeats = query.size(-3) // key.size(-3) if enable_gqa else 1
        flash = query.dtype in _HALF and attn_mask is None and query.size(-1) == value.size(-1) <= 256
        if repeats > 1 and not (self.fused and flash):
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        if not self.fused or query.dim() != 4:
            with self:  # its softmax and dropout follow the rules too
                out = _attention_by_parts(query, key, value, attn_mask, dropout_p, is_causal, scale)
        elif flash:
            out = _flash_attention(query, key, value, dropout_p, is_causal, scale)
        else:
            out = _efficient_attention(query, key, value, attn_mask, dropout_p, is_causal, scale)
        return out.squeeze(1) if squeeze else out


def _autocast(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call with the casts CUDA's autocast makes for this operator; what is on none of its lists is left to the CPU's,
    which then holds CUDA's FP16 list only."""
    to: torch.dtype | None = None
    if name in _FP32 or (name in _PROMOTE and _has_float32((args, kwargs))):
        to = torch.float32
    elif name in _FP16_NOT_ON_CPU:
        to = torch.get_autocast_dtype("cpu")
    elif name in _FP32_OUTPUT:
        if args and _is_half(args[0]) and kwargs.get("dtype") is None and "out" not in kwargs:
            kwargs = {**kwargs, "dtype": torch.float32}
    elif name not in _PROMOTE and name not in _NOT_ON_CUDA:
        return func(*args, **kwargs)
    if to is not None:
        args, kwargs = _cast(args, to), _cast(kwargs, to)
    return _exactly(func, args, kwargs)


def _attention_by_parts(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout_p: float,
    causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """softmax(q k^T scale + mask) v, as models write it out themselves."""
    scale = query.size(-1) ** -0.5 if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if causal:
        allowed = torch.ones(query.size(-2), key.size(-2), dtype=torch.bool, device=query.device).tril()
        scores = scores.masked_fill(~allowed, float("-inf"))
    if mask is not None:
        scores = scores + mask
    weights = torch.nn.functional.softmax(scores, -1)
    if dropout_p:
        weights = torch.nn.functional.dropout(weights, dropout_p)
    return weights.to(value.dtype) @ value


def _flash_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout_p: float, causal: bool, scale: float | None
) -> torch.Tensor:
    """As sdp_utils' flash kernel: head dims padded to a multiple of 8."""
    head_dim = query.size(-1)
    scale = head_dim**-0.5 if scale is None else scale
    if pad := -head_dim % 8:
        query, key, value = (torch.nn.functional.pad(t, (0, pad)) for t in (query, key, value))
    out: torch.Tensor = _quietly(
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        query, key, value, dropout_p, causal, False, scale=scale,
    )[0]  # fmt: skip
    return out[..., :head_dim] if pad else out


def _efficient_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout_p: float,
    causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """As sdp_utils' memory-efficient kernel: a bias whose rows are not 16-byte aligned is copied into padded rows."""
    if mask is not None:
        if any(stride % 8 for stride in mask.stride()[:-1]) or mask.stride(-1) != 1:
            columns = mask.size(-1)
            mask = torch.nn.functional.pad(mask, (0, 8 - columns % 8))[..., :columns]
        mask = mask.expand(query.size(0), query.size(1), query.size(2), key.size(2))
    grad = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    return _quietly(  # type: ignore[no-any-return]
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        query, key, value, mask, grad, dropout_p, causal, scale=scale,
    )[0]  # fmt: skip


_patched_globals: dict[int, dict[str, Any]] = {}
_bodies: dict[types.FunctionType, Callable[..., Any] | None] = {}


def _body(func: types.FunctionType) -> Callable[..., Any] | None:
    """The function without its own check for overrides: run inside the mode, its inner calls reach the mode.

    (Run as it is, the check would hand the call back to the mode for ever.) None if it makes no such check.
    """
    if func not in _bodies:
        if {"if_true", "if_false"} <= set(func.__code__.co_freevars):  # torch._jit_internal.boolean_dispatch: pooling
            inner = (cell.cell_contents for cell in func.__closure__ or ())
            cells = (types.CellType((isinstance(f, types.FunctionType) and _body(f)) or f) for f in inner)
            _bodies[func] = types.FunctionType(
                func.__code__, func.__globals__, func.__name__, func.__defaults__, tuple(cells)
            )
        elif not any(check in func.__globals__ for check in _OVERRIDE_CHECKS):
            _bodies[func] = None
        else:
            key = id(func.__globals__)
            if key not in _patched_globals:
                _patched_globals[key] = {**func.__globals__, **dict.fromkeys(_OVERRIDE_CHECKS, lambda *_: False)}
            body = types.FunctionType(
                func.__code__, _patched_globals[key], func.__name__, func.__defaults__, func.__closure__
            )
            body.__kwdefaults__ = func.__kwdefaults__
            _bodies[func] = body
    return _bodies[func]


def _exactly(func: Any, args: Any, kwargs: Any) -> Any:
    """Call with the CPU's autocast off: the types are as CUDA would have them."""
    enabled = torch.is_autocast_enabled("cpu")
    torch.set_autocast_enabled("cpu", False)
    try:
        return func(*args, **kwargs)
    finally:
        torch.set_autocast_enabled("cpu", enabled)


def _quietly(func: Any, *args: Any, **kwargs: Any) -> Any:
    return _exactly(func, args, kwargs)


def _is_cuda(value: Any) -> bool:
    return (isinstance(value, str) and value.startswith("cuda")) or (
        isinstance(value, torch.device) and value.type == "cuda"
    )


def _is_half(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in _HALF


def _has_float32(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.dtype == torch.float32
    if isinstance(value, dict):
        return any(map(_has_float32, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_float32, value))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast every FP16, BF16 or FP32 tensor in nested lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        castable = value.dtype in _HALF or value.dtype == torch.float32
        return value.to(dtype) if castable and value.dtype != dtype else value
    if isinstance(value, dict):
        return {k: _cast(v, dtype) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        cast = [_cast(v, dtype) for v in value]
        return tuple(cast) if isinstance(value, tuple) else cast
    return value
