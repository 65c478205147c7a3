"""Watches one step on fake tensors: every operator, and every storage from birth to death."""

from __future__ import annotations

import bisect
import functools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from advisor.workload import operators
from advisor.workload.operators import Convolution, RawOp, TensorInfo

_DTYPES = {
    torch.float16: "fp16", torch.bfloat16: "fp16", torch.float32: "fp32", torch.float64: "fp64",
    torch.int64: "int64", torch.int32: "int32", torch.int16: "int16", torch.int8: "int8", torch.uint8: "uint8",
    torch.bool: "bool", torch.complex64: "complex64", torch.complex128: "complex128",
}  # fmt: skip
_CPU = torch.device("cpu")
_OTHER_DTYPE = frozenset({  # pointwise, but of a result type of their own
    "eq", "ne", "lt", "le", "gt", "ge", "logical_not", "logical_and", "logical_or", "logical_xor", "isnan", "isinf",
    "isfinite", "isneginf", "isposinf", "signbit", "real", "imag", "angle", "where", "isreal", "frexp", "view_as_real",
})  # fmt: skip


@dataclass
class Timeline:
    """Storages of one step: sizes in bytes by order of birth, and what happened to them.

    Events: ("+", i) storage i is born, ("-", i) it dies, ("g", i) it becomes a parameter's gradient,
    ("f", -1) the forward pass has ended.
    """

    sizes: list[int] = field(default_factory=list)
    events: list[tuple[str, int]] = field(default_factory=list)


@dataclass(frozen=True)
class _Operator:
    """What is known of an ATen overload without its arguments."""

    name: str
    free: bool
    pointwise: bool
    written: tuple[int, ...]  # positions of arguments it writes to
    special: Callable[..., Any] | None


class Recorder(TorchDispatchMode):
    """Records operators as RawOp and storages as a Timeline while it is entered.

    `ignored` are the tensors (parameters, buffers) whose storages are not activations; they are held, so that
    no activation can take over an address.
    """

    def __init__(self, fake_mode: FakeTensorMode, ignored: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fake_mode = fake_mode
        self.ops: list[RawOp] = []
        self.timeline = Timeline()
        self.last = "before the first operation"
        self.layer_names: list[str] = [""]
        self._layer_index = {"": 0}
        self._stack = [0]
        self._marks: list[tuple[int, int]] = [(0, 0)]  # (autograd sequence number, layer in force from there on)
        self._held = [t.untyped_storage() for t in ignored]
        self._ignored = {s._cdata for s in self._held}
        self._alive: dict[int, tuple[int, Any]] = {}
        self._watching = True
        self._known: dict[Any, _Operator] = {}

    # Layers ---------------------------------------------------------------------------------------------------------

    def enter_layer(self, name: str) -> None:
        """Attribute what follows to this module."""
        index = self._layer_index.get(name)
        if index is None:
            index = self._layer_index[name] = len(self.layer_names)
            self.layer_names.append(name)
        self._stack.append(index)
        self._mark()

    def exit_layer(self) -> None:
        """Back to the module around it."""
        if len(self._stack) > 1:
            self._stack.pop()
        self._mark()

    def _mark(self) -> None:
        if torch._C._current_autograd_node() is None:
            self._marks.append((torch.autograd._get_sequence_nr(), self._stack[-1]))  # type: ignore[attr-defined]

    def _where(self) -> tuple[str, int]:
        """(phase, layer): a backward operator belongs to the layer whose forward pass made its autograd node."""
        node = torch._C._current_autograd_node()
        if node is None:
            return "forward", self._stack[-1]
        if len(self._stack) > 1:  # recomputed inside the backward pass (checkpointing)
            return "backward", self._stack[-1]
        number = node._sequence_nr()
        if number > self._marks[-1][0] + (1 << 40):  # AccumulateGrad has no number of its own
            return "backward", 0
        at = bisect.bisect_right(self._marks, number, key=lambda mark: mark[0]) - 1
        return "backward", self._marks[at][1]

    # Storages -------------------------------------------------------------------------------------------------------

    def watch(self, tensor: torch.Tensor) -> None:
        """Follow the storage behind a tensor, if it is new."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive or key in self._ignored:
            return
        index = self._birth(storage.nbytes())
        self._alive[key] = (index, weakref.ref(storage, functools.partial(self._died, key, index)))

    def became_gradient(self, parameter: torch.Tensor) -> None:
        """The parameter's gradient is complete: gradients allocated beforehand would now be added to, and it freed."""
        if parameter.grad is not None:
            known = self._alive.get(parameter.grad.untyped_storage()._cdata)
            if known is not None:
                self.timeline.events.append(("g", known[0]))

    def forward_ended(self) -> None:
        """What is alive now was saved for backward (or is an input or output)."""
        self.timeline.events.append(("f", -1))

    def step_ended(self) -> None:
        """What dies from now on dies because nobody asks any more."""
        self._watching = False

    def _birth(self, nbytes: int) -> int:
        index = len(self.timeline.sizes)
        self.timeline.sizes.append(nbytes)
        self.timeline.events.append(("+", index))
        return index

    def _died(self, key: int, index: int, _: Any) -> None:
        if self._alive.get(key, (None,))[0] == index:
            del self._alive[key]
        if self._watching:
            self.timeline.events.append(("-", index))

    def _temporary(self, nbytes: int) -> int:
        return self._birth(nbytes)

    def _free(self, temporaries: Sequence[int]) -> None:
        self.timeline.events.extend(("-", index) for index in temporaries)

    # Operators ------------------------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator on fake tensors and write down what it would do on a GPU."""
        if func is torch.ops.prim.device.default:
            return _CPU
        with torch._C.DisableTorchFunction():
            operator = self._known.get(func)
            if operator is None:
                operator = self._known[func] = _inspect(func)
            if operator.free:
                out = func(*args, **(kwargs or {}))
                for t in operators.flatten(out):
                    if isinstance(t, torch.Tensor):
                        self.watch(t)
                return out
            phase, layer = self._where()
            self.last = f"at {operator.name} in {self.layer_names[layer] or 'the top module'}, {phase}"
            if operator.special is not None:
                return operator.special(self, operator, func, args, kwargs or {}, phase, layer)
            return self._run(operator, func, args, kwargs or {}, phase, layer)

    def emit(self, phase: str, layer: int, *, name: str, **facts: Any) -> None:
        """Write down one operation."""
        self.ops.append(RawOp(name=name, phase=phase, layer=layer, **facts))

    def copy(self, phase: str, layer: int, t: TensorInfo, name: str = "contiguous") -> int:
        """Write down a layout change into a temporary; return the temporary."""
        self.emit(
            phase, layer, name=name, kind="copy", dtype=t.dtype, read_bytes=t.traffic_bytes,
            write_bytes=t.numel * t.itemsize,
        )  # fmt: skip
        return self._temporary(t.numel * t.itemsize)

    def _run(
        self, operator: _Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], phase: str, layer: int
    ) -> Any:
        tensors = list(operators.flatten([*args, *kwargs.values()]))
        inputs = [_info(t) if isinstance(t, torch.Tensor) else None for t in tensors]
        temporaries = []
        if operator.name in operators.NEEDS_CONTIGUOUS:
            temporaries = [
                self.copy(phase, layer, t) for t in inputs if t is not None and len(t.shape) > 1 and not t.contiguous
            ]
        out = self._quick(operator, func, args, kwargs)
        written = [args[i] for i in operator.written if i < len(args) and isinstance(args[i], torch.Tensor)]
        outputs = []
        for t in operators.flatten(out):
            if isinstance(t, torch.Tensor) and not any(t is w for w in written):
                self.watch(t)
                outputs.append(_info(t))
        self._free(temporaries)
        facts = operators.memory_bound(
            operator.name, inputs, outputs, [_info(t) for t in written], pointwise=operator.pointwise
        )
        self.emit(phase, layer, name=operator.name, **facts)
        return out

    def _quick(self, operator: _Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Results of the commonest operators without FakeTensorMode's slow way to them; the same shapes and strides."""
        if operator.pointwise and operator.name not in _OTHER_DTYPE and not kwargs:
            first = args[0]
            if isinstance(first, torch.Tensor) and first.is_floating_point() and _dense(first):
                like = (first.dtype, first.shape, first.stride())
                if all((t.dtype, t.shape, t.stride()) == like for t in args[1:] if isinstance(t, torch.Tensor)):
                    return first if operator.written == (0,) else self.new(first.shape, first.stride(), first.dtype)
        elif operator.name == "native_batch_norm" and _dense(args[0]):
            x, training = args[0], args[5]
            saved = (x.shape[1],) if training else (0,)
            moments = [self.new(saved, (1,), _accumulator(x.dtype)) for _ in range(2)]
            return (self.new(x.shape, x.stride(), x.dtype), *moments)
        elif operator.name == "native_batch_norm_backward" and _dense(args[1]) and all(args[9]):
            x, weight = args[1], args[2]
            channels = (x.shape[1],)
            dtype = weight.dtype if weight is not None else _accumulator(x.dtype)
            gradients = [self.new(channels, (1,), dtype) for _ in range(2)]
            return (self.new(x.shape, x.stride(), x.dtype), *gradients)
        elif func is torch.ops.aten._to_copy.default and list(kwargs) == ["dtype"] and _dense(args[0]):
            return self.new(args[0].shape, args[0].stride(), kwargs["dtype"])
        return func(*args, **kwargs)

    def new(self, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A fake tensor of these sizes."""
        with no_dispatch():
            return FakeTensor(self.fake_mode, torch.empty_strided(shape, strides, dtype=dtype, device="meta"), _CPU)

    def _matrix_product(
        self, operator: _Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], phase: str, layer: int
    ) -> Any:
        bias = _info(args[0]) if operator.name in ("addmm", "baddbmm") else None
        a, b = (_info(t) for t in (args[1:3] if bias else args[:2]))
        temporaries = [self.copy(phase, layer, t) for t in (a, b) if operators.matrix_operand(t, operator.name)[1]]
        out = func(*args, **kwargs)
        self.watch(out)
        self._free(temporaries)
        facts = operators.matrix_product(operator.name, a, b, _info(out), bias)
        self.emit(phase, layer, name=operator.name, **facts)
        return out

    def _convolution(
        self, operator: _Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], phase: str, layer: int
    ) -> torch.Tensor:
        x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = args
        xi, wi = _info(x), _info(weight)
        channels_last = xi.channels_last or wi.channels_last
        temporaries = [
            self.copy(phase, layer, t)
            for t in (xi, wi)
            if not t.contiguous_in(channels_last) and not _depthwise_native(xi, wi, groups, channels_last)
        ]
        rank = x.dim() - 2
        stride, padding, dilation, output_padding = (
            tuple(v) * (rank if len(v) == 1 else 1) for v in (stride, padding, dilation, output_padding)
        )
        window = wi.shape[2:]
        if transposed:
            spatial = tuple(
                (i - 1) * s - 2 * p + d * (r - 1) + 1 + o
                for i, s, p, d, r, o in zip(
                    xi.shape[2:], stride, padding, dilation, window, output_padding, strict=True
                )
            )
            channels = wi.shape[1] * groups
        else:
            spatial = tuple(
                (i + 2 * p - d * (r - 1) - 1) // s + 1
                for i, s, p, d, r in zip(xi.shape[2:], stride, padding, dilation, window, strict=True)
            )
            channels = wi.shape[0]
        if xi.shape[1] != wi.shape[0 if transposed else 1] * (1 if transposed else groups) or min(spatial) < 1:
            return func(*args, **kwargs)  # type: ignore[no-any-return]  # a wrong call: let PyTorch say what is wrong
        shape = (xi.shape[0], channels, *spatial)
        out = self.new(shape, _strides(shape, channels_last), x.dtype)
        self.watch(out)
        self._free(temporaries)
        oi = _info(out)
        conv = _describe(xi, wi, oi, stride, padding, dilation, transposed, groups)
        self.emit(
            phase, layer, name=operator.name, kind="conv_dgrad" if transposed else "conv_fprop", dtype=xi.dtype,
            read_bytes=xi.traffic_bytes + wi.traffic_bytes, write_bytes=oi.traffic_bytes, flops=conv.flops,
            dims=conv.dims(), kernels=_conv_kernels(xi, channels_last),
        )  # fmt: skip
        if bias is not None and not _depthwise_native(xi, wi, groups, channels_last):
            self.emit(
                phase, layer, name="add_", kind="elementwise", dtype=xi.dtype,
                read_bytes=oi.traffic_bytes + _info(bias).traffic_bytes, write_bytes=oi.traffic_bytes,
            )  # fmt: skip
        return out

    def _convolution_backward(
        self, operator: _Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], phase: str, layer: int
    ) -> tuple[torch.Tensor | None, ...]:
        grad, x, weight, _, stride, padding, dilation, transposed, _, groups, mask = args
        gi, xi, wi = _info(grad), _info(x), _info(weight)
        channels_last = xi.channels_last or wi.channels_last
        rank = x.dim() - 2
        stride, padding, dilation = (tuple(v) * (rank if len(v) == 1 else 1) for v in (stride, padding, dilation))
        temporaries = [self.copy(phase, layer, t) for t in (gi, xi, wi) if not t.contiguous_in(channels_last)]
        conv = _describe(xi, wi, gi, stride, padding, dilation, transposed, groups)
        to_input = to_weight = to_bias = None
        kernels = _conv_kernels(xi, channels_last)
        dims = conv.dims()
        if mask[0]:
            to_input = self.new(x.shape, _strides(xi.shape, channels_last), x.dtype)
            self.watch(to_input)
            self.emit(
                phase, layer, name=operator.name, kind="conv_fprop" if transposed else "conv_dgrad", dtype=gi.dtype,
                read_bytes=gi.traffic_bytes + wi.traffic_bytes, write_bytes=_info(to_input).traffic_bytes,
                flops=conv.flops, dims=dims, kernels=kernels,
            )  # fmt: skip
        if mask[1]:
            to_weight = self.new(weight.shape, _strides(wi.shape, channels_last), weight.dtype)
            self.watch(to_weight)
            self.emit(
                phase, layer, name=operator.name, kind="conv_wgrad", dtype=gi.dtype,
                read_bytes=gi.traffic_bytes + xi.traffic_bytes, write_bytes=_info(to_weight).traffic_bytes,
                flops=conv.flops, dims=dims, kernels=kernels,
            )  # fmt: skip
        if mask[2]:
            to_bias = self.new((gi.shape[1],), (1,), grad.dtype)
            self.watch(to_bias)
            self.emit(
                phase, layer, name="sum", kind="reduction", dtype=gi.dtype, read_bytes=gi.traffic_bytes,
                write_bytes=_info(to_bias).traffic_bytes,
            )  # fmt: skip
        self._free(temporaries)
        return to_input, to_weight, to_bias

    def _attention(
        self, operator: _Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], phase: str, layer: int
    ) -> Any:
        q, k, v = (_info(t) for t in args[:3])
        efficient = "efficient" in operator.name
        bias = args[3] if efficient else None
        causal = bool(args[6] if efficient and len(args) > 6 else args[4] if not efficient and len(args) > 4 else False)
        out = func(*args, **kwargs)
        outputs = [t for t in out if isinstance(t, torch.Tensor)]
        for t in outputs:
            self.watch(t)
        dims, flops = operators.attention(q, k, v, causal)
        self.emit(
            phase, layer, name=operator.name, kind="attention_fprop", dtype=q.dtype,
            read_bytes=sum(t.traffic_bytes for t in (q, k, v)) + (_info(bias).traffic_bytes if bias is not None else 0),
            write_bytes=sum(_info(t).traffic_bytes for t in outputs), flops=flops, dims=dims,
        )  # fmt: skip
        return out

    def _attention_backward(
        self, operator: _Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], phase: str, layer: int
    ) -> Any:
        q, k, v = (_info(t) for t in args[1:4])
        tensors = [_info(t) for t in args if isinstance(t, torch.Tensor)]
        efficient = "efficient" in operator.name
        causal = bool(args[10] if efficient else args[11]) if len(args) > 11 else False
        batch, heads, q_len, head_dim = q.shape
        rows = -(-q_len // 128) * 128
        # FlashAttention 2 accumulates dQ in FP32, rows and head dim rounded up, beside its softmax sums
        # (mha_bwd in ATen/native/transformers/cuda/flash_attn/flash_api.cpp).
        scratch = batch * heads * rows * 4 * ((0 if efficient else -(-head_dim // 32) * 32) + 1)
        temporaries = [self._temporary(scratch)]
        out = func(*args, **kwargs)
        outputs = [t for t in out if isinstance(t, torch.Tensor)]
        for t in outputs:
            self.watch(t)
        self._free(temporaries)
        dims, _ = operators.attention(q, k, v, causal)
        self.emit(
            phase, layer, name=operator.name, kind="attention_bprop", dtype=q.dtype,
            read_bytes=sum(t.traffic_bytes for t in tensors),
            write_bytes=sum(_info(t).traffic_bytes for t in outputs),
            flops=operators.attention_backward_flops(q, v), dims=dims, kernels=2 if efficient else 3,
        )  # fmt: skip
        return out

    def _rnn(
        self, operator: _Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], phase: str, layer: int
    ) -> tuple[torch.Tensor, ...]:
        x, weights, h, c, mode, batch_first, train = args[0], args[1], args[4], args[5], args[6], args[10], args[12]
        batch, steps = (x.shape[0], x.shape[1]) if batch_first else (x.shape[1], x.shape[0])
        ways, width, rows = 1 + args[13], h.shape[-1], _rnn_rows(weights, args[2])
        shape = (batch, steps, ways * width) if batch_first else (steps, batch, ways * width)
        out = self.new(shape, _strides(shape, False), x.dtype)
        states = [
            self.new((0,), (1,), x.dtype) if s is None else self.new(s.shape, _strides(s.shape, False), x.dtype)
            for s in (h, c)
        ]
        # What cuDNN keeps for backward is its secret; the gates and the states of every step are what it needs.
        kept = sum(gates + 2 * state for gates, _, state in rows) * steps * batch * x.element_size() if train else 0
        reserve = self.new((kept,), (1,), torch.uint8)
        buffer = self.new((sum(w.numel() for w in weights),), (1,), x.dtype)
        result = (out, *states, reserve, buffer)
        for t in result:
            self.watch(t)
        for gates, inputs, state in rows:
            self._rnn_product(operator, phase, layer, x, 1, (steps * batch, gates, inputs))
            self._rnn_product(operator, phase, layer, x, steps, (batch, gates, state))
            for _ in range(steps):
                self._rnn_cell(phase, layer, x, batch, gates, state, mode)
        return result

    def _rnn_backward(
        self, operator: _Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], phase: str, layer: int
    ) -> tuple[Any, ...]:
        x, weights, h, c, mode, batch_first, mask = args[0], args[1], args[4], args[5], args[10], args[14], args[21]
        batch, steps = (x.shape[0], x.shape[1]) if batch_first else (x.shape[1], x.shape[0])
        gradients = [
            self.new(t.shape, _strides(t.shape, False), t.dtype) if wanted and t is not None else None
            for t, wanted in zip((x, h, c), mask, strict=False)
        ]
        of_weights = [self.new(w.shape, _strides(w.shape, False), w.dtype) for w in weights] if mask[3] else []
        for t in (*gradients, *of_weights):
            if t is not None:
                self.watch(t)
        for gates, inputs, state in _rnn_rows(weights, args[2]):
            for _ in range(steps):
                self._rnn_cell(phase, layer, x, batch, gates, state, mode)
            self._rnn_product(operator, phase, layer, x, steps, (batch, state, gates))
            self._rnn_product(operator, phase, layer, x, 1, (steps * batch, inputs, gates))
            if mask[3]:
                self._rnn_product(operator, phase, layer, x, 1, (gates, inputs, steps * batch))
                self._rnn_product(operator, phase, layer, x, 1, (gates, state, steps * batch))
        return (*gradients, of_weights)

    def _rnn_product(
        self, operator: _Operator, phase: str, layer: int, x: torch.Tensor, times: int, mnk: tuple[int, int, int]
    ) -> None:
        m, n, k = mnk
        size = x.element_size()
        for _ in range(times):
            self.emit(
                phase, layer, name=operator.name, kind="gemm", dtype=_DTYPES[x.dtype],
                read_bytes=size * (m * k + k * n), write_bytes=size * m * n, flops=2 * m * n * k,
                dims={"m": m, "n": n, "k": k, "a_t": 0, "b_t": 0},
            )  # fmt: skip

    def _rnn_cell(self, phase: str, layer: int, x: torch.Tensor, batch: int, gates: int, state: int, mode: int) -> None:
        size = x.element_size() * batch
        self.emit(
            phase, layer, name="rnn_cell", kind="elementwise", dtype=_DTYPES[x.dtype],
            read_bytes=size * (gates + state), write_bytes=size * (2 * state if mode == 2 else state),
        )  # fmt: skip


def _rnn_rows(weights: Sequence[torch.Tensor], per_layer: int) -> list[tuple[int, int, int]]:
    """(gate rows, input width, state width) of each layer and direction of a recurrent network."""
    return [(w.shape[0], w.shape[1], weights[i + 1].shape[1])
            for i, w in enumerate(weights) if i % per_layer == 0]  # fmt: skip


_SPECIAL: dict[str, Callable[..., Any]] = {
    "mm": Recorder._matrix_product,
    "addmm": Recorder._matrix_product,
    "bmm": Recorder._matrix_product,
    "baddbmm": Recorder._matrix_product,
    "_cudnn_rnn": Recorder._rnn,
    "_cudnn_rnn_backward": Recorder._rnn_backward,
    "convolution": Recorder._convolution,
    "convolution_backward": Recorder._convolution_backward,
    "_scaled_dot_product_flash_attention": Recorder._attention,
    "_scaled_dot_product_efficient_attention": Recorder._attention,
    "_scaled_dot_product_flash_attention_backward": Recorder._attention_backward,
    "_scaled_dot_product_efficient_attention_backward": Recorder._attention_backward,
}


def _inspect(func: Any) -> _Operator:
    schema = func._schema
    namespace, _, name = schema.name.partition("::")
    written = tuple(i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write)
    is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
    return _Operator(
        name=name if namespace == "aten" else schema.name,
        free=is_view or namespace == "prim" or name in operators.FREE_OPERATORS,
        pointwise=torch.Tag.pointwise in func.tags,
        written=written,
        special=_SPECIAL.get(name) if namespace == "aten" else None,
    )


def _dense(t: torch.Tensor) -> bool:
    """Row-major or channels_last without gaps: an operator's result then has the very same strides."""
    return t.is_contiguous() or (t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last))


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _info(t: torch.Tensor) -> TensorInfo:
    if t.layout is not torch.strided:
        raise NotImplementedError(f"a tensor of layout {t.layout}")
    return TensorInfo(tuple(t.shape), tuple(t.stride()), t.element_size(), _DTYPES.get(t.dtype, str(t.dtype)))


def _strides(shape: Sequence[int], channels_last: bool) -> tuple[int, ...]:
    """Of a dense tensor in row-major or channels_last order."""
    order = (0, 2, 3, 1) if channels_last else range(len(shape))
    strides, step = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = step
        step *= max(1, shape[dim])
    return tuple(strides)


def _describe(
    x: TensorInfo,
    weight: TensorInfo,
    out: TensorInfo,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    transposed: bool,
    groups: int,
) -> Convolution:
    big, small = (out, x) if transposed else (x, out)
    return Convolution(
        n=x.shape[0], c=big.shape[1], k=small.shape[1], spatial=big.shape[2:], out_spatial=small.shape[2:],
        window=weight.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip


def _depthwise_native(x: TensorInfo, weight: TensorInfo, groups: int, channels_last: bool) -> bool:
    """Row-major depthwise convolutions run in PyTorch's own kernel, which adds the bias itself."""
    return not channels_last and groups == x.shape[1] and weight.shape[1] == 1 and groups > 1


def _conv_kernels(x: TensorInfo, channels_last: bool) -> int:
    """cuDNN's FP16 Tensor Core kernels want NHWC: a row-major convolution is framed by two layout changes."""
    return 3 if x.dtype == "fp16" and not channels_last and prod(x.shape[2:]) > 1 else 1
