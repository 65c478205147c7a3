"""From an nn.Module to a Workload: a step is run on fake tensors at two batch sizes and fitted as a + b*B.

No GPU and no weights are touched. Sizes are exact; a third batch size verifies that they are affine. What is CUDA's
rather than the CPU's (autocast's lists, fused kernels, layouts) is imposed by `cuda_rules` and `recorder`.
This module imports torch: import it inside functions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from advisor.errors import BadInputError, TraceError
from advisor.workload.cuda_rules import CudaRules
from advisor.workload.inputs import MakeInputs, has_images, tensor_inputs, tensors_in, to_layout, training_loss
from advisor.workload.operators import RawOp
from advisor.workload.recorder import Recorder, Timeline
from advisor.workload.schema import SCHEMA_VERSION, Affine, Op, Variant, Workload

BLOCK_BYTES = 512  # PyTorch's caching allocator rounds every request up to this (c10/cuda/CUDACachingAllocator)
LARGEST_BATCH = 1 << 20  # envelopes hold for batch sizes from 1 to this

Loss = Callable[[Any, int], torch.Tensor]


@dataclass(frozen=True)
class VariantSpec:
    """Which step to trace. layout None: nhwc (channels_last) if the model has 2-D convolutions, else any."""

    mode: Literal["train", "infer"] = "train"
    precision: Literal["amp", "fp32"] = "amp"
    layout: Literal["nhwc", "nchw"] | None = None
    attention: Literal["fused", "unfused"] = "fused"


@dataclass
class _Run:
    ops: list[RawOp]
    timeline: Timeline
    layer_names: list[str]
    attention_seen: bool


def trace_module(
    module: torch.nn.Module,
    input_shape: Sequence[int] | None = None,
    *,
    name: str,
    inputs: MakeInputs | None = None,
    input_dtype: Literal["float32", "int64"] = "float32",
    variants: Sequence[VariantSpec] = (VariantSpec(),),
    loss: Loss | None = None,
    title: str | None = None,
    task: str = "",
    origin: str | None = None,
    factory: str = "",
    verify: bool = True,
    batches: tuple[int, int] = (2, 4),
    verify_batch: int = 5,
) -> Workload:
    """Trace the training or inference step of a module; the module is left as it was.

    `input_shape` is one sample, without the batch: (3, 224, 224), or (128,) token ids with input_dtype="int64".
    `inputs(B)` gives (args, kwargs) of forward for batch size B instead. `loss(output, B)` gives a scalar; by default
    the output's own `.loss`, else cross entropy over the logits (classes, pixels or tokens). `verify` runs a third
    batch size and compares every operation's sizes with the fit.

    Raises TraceError naming the operation that cannot be traced or whose sizes are not affine in the batch size,
    BadInputError for an unusable shape.
    """
    if inputs is None:
        if not input_shape or any(s < 1 for s in input_shape):
            raise BadInputError(f"input shape {input_shape} of one sample is not usable: give e.g. (3, 224, 224)")
        inputs = tensor_inputs(tuple(input_shape), getattr(torch, input_dtype))
    parameters = list(module.parameters())
    if any(spec.mode == "train" for spec in variants) and not any(p.requires_grad for p in parameters):
        raise TraceError(
            f"model {name!r} cannot be traced in training: none of its {len(parameters)} parameters requires a "
            'gradient; unfreeze some, or predict inference (mode "infer")'
        )
    tracer = _Tracer(module, name, inputs, loss, batches, verify_batch if verify else None)
    traced = tracer.variants(variants)
    return Workload(
        schema_version=SCHEMA_VERSION,
        name=name,
        title=title or name,
        task=task,
        origin=origin or f"{type(module).__module__}.{type(module).__qualname__}",
        input_shape=tuple(input_shape or ()),
        parameters=sum(p.numel() for p in parameters),
        parameter_tensors=len(parameters),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        buffer_bytes=sum(b.numel() * b.element_size() for b in module.buffers()),
        batch_norm_layers=sum(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in module.modules()),
        layer_names=tuple(tracer.layers),
        variants=traced,
        largest_parameter=max((p.numel() for p in parameters), default=0),
        factory=factory,
    )


# One variant --------------------------------------------------------------------------------------------------------


@dataclass
class _Tracer:
    """What the variants of one module share."""

    module: torch.nn.Module
    name: str
    inputs: MakeInputs
    loss: Loss | None
    batches: tuple[int, int]
    verify_batch: int | None
    layers: dict[str, int] = field(default_factory=dict)  # name to index
    calls_attention: bool = True  # scaled_dot_product_attention; until a run has shown otherwise

    def variants(self, specs: Sequence[VariantSpec]) -> tuple[Variant, ...]:
        """Trace each way to run a step once; ways that do not differ for this module are one."""
        images = has_images(self.module)
        traced: dict[VariantSpec, Variant] = {}
        for wanted in specs:
            spec = dataclasses.replace(wanted, layout=(wanted.layout or "nhwc") if images else None)
            if self._key(spec) not in traced:
                variant = self._variant(spec)
                traced[self._key(spec)] = variant
        return tuple(traced.values())

    def _key(self, spec: VariantSpec) -> VariantSpec:
        return spec if self.calls_attention else dataclasses.replace(spec, attention="fused")

    def _variant(self, spec: VariantSpec) -> Variant:
        low, high = (self._run(spec, batch) for batch in self.batches)
        ops = _fit_ops(self.name, self.batches, (low, high), self.layers)
        sizes = _fit_sizes(self.name, self.batches, (low, high))
        if self.verify_batch is not None:
            _verify(self.name, ops, sizes, self._run(spec, self.verify_batch), self.verify_batch)
        self.calls_attention = low.attention_seen
        attention: Literal["fused", "unfused", "none"] = spec.attention if low.attention_seen else "none"
        if not low.attention_seen and {"bmm", "softmax"} <= {op.kind for op in ops if op.phase == "forward"}:
            attention = "unfused"  # the model writes its attention out
        live, live_with_gradients, saved = _envelopes(sizes, low.timeline)
        training = spec.mode == "train"
        return Variant(
            mode=spec.mode,
            precision=spec.precision,
            layout=spec.layout or "any",
            attention=attention,
            ops=tuple(ops),
            live=live,
            live_with_gradients=live_with_gradients if training else (),
            saved=saved if training else (0, 0),
        )

    def _run(self, spec: VariantSpec, batch: int) -> _Run:
        return _run(self.module, self.name, self.inputs, self.loss, spec, spec.layout == "nhwc", batch)


def _run(
    module: torch.nn.Module,
    name: str,
    inputs: MakeInputs,
    loss: Loss | None,
    spec: VariantSpec,
    channels_last: bool,
    batch: int,
) -> _Run:
    """One step at one batch size, on fake tensors."""
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    rules = CudaRules(amp=spec.precision == "amp", fused=spec.attention == "fused")
    training = spec.mode == "train"
    recorder: Recorder | None = None
    collect = gc.isenabled()
    gc.disable()  # a collection at a moment of its own would move deaths about
    try:
        with (
            _quiet(),
            _fake_parameters(module, fake_mode, channels_last) as held,
            fake_mode,
            torch.backends.mkldnn.flags(enabled=False),
        ):
            module.train(training)
            recorder = Recorder(fake_mode, held)
            args, kwargs = to_layout(inputs(batch), channels_last)
            with recorder, rules, _layers(module, recorder):
                for t in tensors_in((args, kwargs)):
                    recorder.watch(t)
                with torch.set_grad_enabled(training):
                    with _autocast(enabled=spec.precision == "amp"):
                        output = module(*args, **kwargs)
                        value = _loss(loss, output, batch) if training else None
                    recorder.forward_ended()
                    if value is not None:
                        value.backward()  # type: ignore[no-untyped-call]
                recorder.step_ended()
            del args, kwargs, output, value
    except (TraceError, BadInputError):
        raise
    except Exception as error:  # whatever the user's model or PyTorch raises
        raise TraceError(_explain(name, recorder, batch, error)) from error
    finally:
        if collect:
            gc.enable()
    return _Run(recorder.ops, recorder.timeline, recorder.layer_names, rules.attention_seen)


def _explain(name: str, recorder: Recorder | None, batch: int, error: Exception) -> str:
    at = recorder.last if recorder else "before the first operation"
    what = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {what[0][:200] if what else ''}"
    if type(error).__name__ in ("DataDependentOutputException", "DynamicOutputShapeException"):
        cure = (
            "its sizes or branches depend on data (.item(), nonzero, a boolean index): "
            "give a factory whose forward avoids that"
        )
    else:
        cure = "check the input shape, and that its forward and backward run on one device for this batch"
    return f"model {name!r} cannot be traced at batch {batch}, {at}: {reason}; {cure}"


# Surroundings of a run ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _autocast(*, enabled: bool) -> Iterator[None]:
    """CPU autocast to FP16, with CUDA's flag raised beside it so that user code can switch either off."""
    if not enabled:
        yield
        return
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.float16)
    try:
        with torch.autocast("cpu", torch.float16):
            yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


@contextlib.contextmanager
def _fake_parameters(
    module: torch.nn.Module, fake_mode: FakeTensorMode, channels_last: bool
) -> Iterator[list[torch.Tensor]]:
    """Put fakes in the place of every tensor the module's attributes reach, then everything back as it was."""
    before = [(m, dict(m.__dict__)) for m in module.modules()]
    memo: dict[int, torch.Tensor] = {}

    def fake(t: torch.Tensor) -> torch.Tensor:
        if id(t) not in memo:
            with fake_mode:
                if channels_last and t.dim() == 4:
                    new = torch.empty(t.shape, dtype=t.dtype, memory_format=torch.channels_last)
                elif t.layout is torch.strided:
                    new = torch.empty_strided(t.size(), t.stride(), dtype=t.dtype)
                else:
                    new = torch.empty(t.shape, dtype=t.dtype)
                if isinstance(t, torch.nn.Parameter):
                    new = torch.nn.Parameter(new, requires_grad=t.requires_grad)
                else:
                    new.requires_grad_(t.requires_grad)
            memo[id(t)] = new
        return memo[id(t)]

    def convert(value: Any, depth: int = 0) -> Any:
        if isinstance(value, torch.Tensor):
            return fake(value)
        if depth < 3 and type(value) in (list, tuple):
            return type(value)(convert(v, depth + 1) for v in value)
        if depth < 3 and isinstance(value, dict):
            copied = value.copy()
            for key, item in value.items():
                copied[key] = convert(item, depth + 1)
            return copied
        return value

    try:
        for m, attributes in before:
            for key, value in attributes.items():
                m.__dict__[key] = value.copy() if key == "_modules" else convert(value)
        yield list(memo.values())
    finally:
        for m, attributes in before:
            m.__dict__.clear()
            m.__dict__.update(attributes)


@contextlib.contextmanager
def _layers(module: torch.nn.Module, recorder: Recorder) -> Iterator[None]:
    """Tell the recorder which module runs, and when a parameter's gradient is complete."""

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: recorder.enter_layer(name)

    def leave(*_: Any) -> None:
        recorder.exit_layer()

    handles: list[Any] = []
    try:
        for name, m in module.named_modules():
            handles.append(m.register_forward_pre_hook(enter(name)))
            handles.append(m.register_forward_hook(leave))
        handles += [
            p.register_post_accumulate_grad_hook(recorder.became_gradient)  # type: ignore[no-untyped-call]
            for p in module.parameters()
            if p.requires_grad
        ]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _loss(loss: Loss | None, output: Any, batch: int) -> torch.Tensor:
    return training_loss(output, _any_targets) if loss is None else loss(output, batch)


def _any_targets(shape: tuple[int, ...], _classes: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.int64)


# Fitting ------------------------------------------------------------------------------------------------------------


def _line(batches: tuple[int, int], values: tuple[int, int]) -> Affine | None:
    """(a, b) of the whole-number line through two points, None if there is none."""
    slope, rest = divmod(values[1] - values[0], batches[1] - batches[0])
    return None if rest else (values[0] - slope * batches[0], slope)


def _at(line: Affine, batch: int) -> int:
    return line[0] + line[1] * batch


def _fit_ops(name: str, batches: tuple[int, int], runs: Sequence[_Run], layers: dict[str, int]) -> list[Op]:
    """Operations with sizes a + b*B, equal ones merged, in order of first execution."""
    low, high = runs
    _check_same_operations(name, batches[0], low.ops, batches[1], high.ops)
    remap = [layers.setdefault(layer, len(layers)) for layer in low.layer_names]
    merged: dict[tuple[Any, ...], list[int]] = {}
    for i, (a, b) in enumerate(zip(low.ops, high.ops, strict=True)):
        read, write, flops = (
            _line(batches, (getattr(a, f), getattr(b, f))) for f in ("read_bytes", "write_bytes", "flops")
        )
        dims = tuple((key, _line(batches, (value, b.dims[key]))) for key, value in a.dims.items())
        if read is None or write is None or flops is None or any(line is None for _, line in dims):
            raise TraceError(_not_affine(name, i, a, low.layer_names))
        key = (a.kind, a.name, a.phase, a.dtype, read, write, flops, dims, a.kernels)
        merged.setdefault(key, []).append(remap[a.layer])
    return [
        Op(
            kind=kind, name=op, phase=phase, dtype=dtype, read_bytes=read, write_bytes=write, flops=flops,
            dims=dict(dims), kernels=kernels, layers=tuple(at), count=len(at),
        )
        for (kind, op, phase, dtype, read, write, flops, dims, kernels), at in merged.items()
    ]  # fmt: skip


def _check_same_operations(name: str, low_batch: int, low: list[RawOp], high_batch: int, high: list[RawOp]) -> None:
    for i, (a, b) in enumerate(zip(low, high, strict=False)):
        if (a.kind, a.name, a.phase, a.dtype) != (b.kind, b.name, b.phase, b.dtype):
            raise TraceError(
                f"model {name!r} cannot be traced: operation {i} is {a.name} at batch {low_batch} but {b.name} at "
                f"batch {high_batch}; its step depends on the batch size in a way that no line describes"
            )
    if len(low) != len(high):
        raise TraceError(
            f"model {name!r} cannot be traced: {len(low)} operations at batch {low_batch} but {len(high)} at batch "
            f"{high_batch}; its step depends on the batch size in a way that no line describes"
        )


def _not_affine(name: str, i: int, op: RawOp, layer_names: list[str]) -> str:
    return (
        f"model {name!r} cannot be traced: sizes of operation {i}, {op.name} in "
        f"{layer_names[op.layer] or 'the top module'} ({op.phase}), are not of the form a + b*B in the batch size B; "
        "replace what mixes samples (batch-by-batch products, grouping by batch)"
    )


def _fit_sizes(name: str, batches: tuple[int, int], runs: Sequence[_Run]) -> list[Affine]:
    """Bytes of every storage as a line, by order of birth."""
    low, high = (run.timeline for run in runs)
    if _in_order(low.events) != _in_order(high.events):
        raise TraceError(
            f"model {name!r} cannot be traced: tensors live and die differently at batch {batches[0]} and "
            f"{batches[1]}; its step depends on the batch size in a way that no line describes"
        )
    lines = []
    for pair in zip(low.sizes, high.sizes, strict=True):
        line = _line(batches, pair)
        if line is None:
            raise TraceError(f"model {name!r} cannot be traced: a tensor of {pair[0]} bytes at batch {batches[0]} has "
                             f"{pair[1]} at batch {batches[1]}, which is not of the form a + b*B")  # fmt: skip
        lines.append(line)
    return lines


def _in_order(events: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Events with each unbroken row of deaths sorted: autocast empties its cache in the order of a hash table."""
    ordered: list[tuple[str, int]] = []
    deaths: list[tuple[str, int]] = []
    for event in (*events, ("end", -1)):
        if event[0] == "-":
            deaths.append(event)
        else:
            ordered += [*sorted(deaths), event]
            deaths.clear()
    return ordered


def _verify(name: str, ops: list[Op], sizes: list[Affine], run: _Run, batch: int) -> None:
    """Compare a third batch size with the fit: totals of every operation signature, and every storage."""
    expected = sorted(
        (op.kind, op.name, op.phase, op.dtype, _at(op.read_bytes, batch), _at(op.write_bytes, batch),
         _at(op.flops, batch), tuple((k, _at(v, batch)) for k, v in op.dims.items()))
        for op in ops
        for _ in range(op.count)
    )  # fmt: skip
    found = [
        (op.kind, op.name, op.phase, op.dtype, op.read_bytes, op.write_bytes, op.flops, tuple(op.dims.items()))
        for op in run.ops
    ]
    if sorted(found) != expected:
        known = set(expected)
        for i, (op, key) in enumerate(zip(run.ops, found, strict=True)):
            if key not in known:
                raise TraceError(_not_affine(name, i, op, run.layer_names))
        raise TraceError(
            f"model {name!r} cannot be traced: {len(run.ops)} operations at batch {batch}, {len(expected)} expected"
        )
    if [_at(line, batch) for line in sizes] != run.timeline.sizes:
        raise TraceError(
            f"model {name!r} cannot be traced: the bytes it keeps at batch {batch} are not on the line through the "
            "first two batch sizes"
        )


def _envelopes(sizes: list[Affine], timeline: Timeline) -> tuple[tuple[Affine, ...], tuple[Affine, ...], Affine]:
    """(live, live with gradients, saved when the forward pass ends), from births and deaths."""
    blocks = [_rounded(line) for line in sizes]
    gradients: set[int] = set()
    live = with_gradients = saved = (0, 0)
    moments: tuple[set[Affine], set[Affine]] = ({live}, {live})

    def plus(total: Affine, block: Affine, sign: int) -> Affine:
        return total[0] + sign * block[0], total[1] + sign * block[1]

    for what, i in timeline.events:
        if what == "+":
            live, with_gradients = plus(live, blocks[i], 1), plus(with_gradients, blocks[i], 1)
            moments[0].add(live)
            moments[1].add(with_gradients)
        elif what == "-":
            if i in gradients:
                continue
            live, with_gradients = plus(live, blocks[i], -1), plus(with_gradients, blocks[i], -1)
        elif what == "g" and i not in gradients:
            gradients.add(i)
            live = plus(live, blocks[i], -1)
        elif what == "f":
            saved = live
    return _upper(moments[0]), _upper(moments[1]), saved


def _rounded(line: Affine) -> Affine:
    """A line no lower than the allocator's block-wise rounding of this one."""
    a, b = line
    if b % BLOCK_BYTES == 0:
        return -(-a // BLOCK_BYTES) * BLOCK_BYTES, b
    return a + BLOCK_BYTES - 1, b


def _upper(lines: set[Affine]) -> tuple[Affine, ...]:
    """The lines that are highest somewhere between B = 1 and the largest batch, by rising slope."""
    envelope: list[Affine] = []
    batch = 1
    while batch <= LARGEST_BATCH:
        best = max(lines, key=lambda line: (_at(line, batch), line[1]))
        envelope.append(best)
        # the first batch from which a steeper line is above `best`
        crossings = [
            (best[0] - a) // (b - best[1]) + 1 for a, b in lines if b > best[1] and (best[0] - a) // (b - best[1]) >= 0
        ]
        following = [c for c in crossings if c > batch]
        if not following:
            break
        batch = min(following)
    return tuple(envelope)
