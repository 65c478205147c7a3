"""One real step of a module, ready to be called again and again: zero_grad, forward, loss, backward, optimizer.

Imports torch and nothing else: import it inside functions, in a child process that no one minds being changed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from advisor.errors import TraceError
from advisor.recipe import Recipe
from advisor.workload.inputs import Inputs, has_images, tensor_inputs, tensors_in, to_layout, training_loss
from advisor.workload.sources import Source

SEED = 0
LEARNING_RATE = {"sgd": 1e-3, "adam": 1e-5, "adamw": 1e-5}  # low enough to stay finite on one batch without a warm-up
MOMENTUM = 0.9
SCALE = 2.0**10  # GradScaler's first: low enough that no step overflows and is skipped
SETTLE_S = 3.0  # clocks swing for about so long after a pause
SETTLE_LIMIT_S = 10.0  # settled or not, go on then
SETTLE_SPREAD = 0.02  # of the last windows' times, to be steady
SETTLE_WINDOWS = 4  # that must agree
WINDOW_S = 0.2
LEAST_WARM_STEPS = 3  # algorithms are chosen in the first, optimizer state is born in it, the allocator settles after


def configure(recipe: Recipe) -> None:
    """Set what a recipe says of the whole process: cuDNN's search, TF32, fused attention."""
    torch.backends.cudnn.benchmark = recipe.cudnn_benchmark
    if not recipe.autocast:
        allowed = recipe.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    if recipe.attention == "unfused":
        for enable in ("enable_flash_sdp", "enable_mem_efficient_sdp", "enable_cudnn_sdp"):
            getattr(torch.backends.cuda, enable)(False)


class Step:
    """A step under a recipe at a batch size, on data that is on the device already.

    Inputs are uniform in [-1, 1], or random ids in the range of the embedding that takes them; targets are random.
    Raises TraceError where nothing can be trained, and whatever the module raises.
    """

    def __init__(self, source: Source, recipe: Recipe, *, batch: int, device: str) -> None:
        self.recipe, self.batch, self.device = recipe, batch, torch.device(device)
        self.notes: list[str] = []
        torch.manual_seed(SEED)
        self.module = source.module.train(recipe.mode == "train").to(self.device)
        self.layout = recipe.layout if has_images(self.module) else "any"
        if self.layout == "nhwc":
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stub
        self._targets: dict[tuple[tuple[int, ...], int], torch.Tensor] = {}
        self._dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float16
        self._optimizer = self._make_optimizer() if recipe.mode == "train" else None
        scales = recipe.mode == "train" and recipe.precision == "fp16" and recipe.grad_scaler
        self._scaler = torch.amp.GradScaler(self.device.type, init_scale=SCALE, enabled=scales)
        make = source.inputs or tensor_inputs(source.input_shape, getattr(torch, source.input_dtype))
        self._inputs = to_layout(self._on_device(make(batch)), self.layout == "nhwc")
        self._draw_ids()

    def _make_optimizer(self) -> torch.optim.Optimizer:
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        if not parameters:
            raise TraceError("none of its parameters requires a gradient: unfreeze some, or record inference")
        kind, foreach = self.recipe.optimizer, self.recipe.foreach
        if kind == "sgd":
            return torch.optim.SGD(parameters, lr=LEARNING_RATE[kind], momentum=MOMENTUM, foreach=foreach)
        make = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
        return make(parameters, lr=LEARNING_RATE[kind], foreach=foreach)

    def _on_device(self, inputs: Inputs) -> Inputs:
        """New tensors of the same shapes: random where floating-point, 0 where whole numbers."""

        def make(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            new = torch.zeros(value.shape, dtype=value.dtype, device=self.device)
            return new.uniform_(-1, 1) if value.is_floating_point() else new

        args, kwargs = inputs
        return tuple(map(make, args)), {name: make(value) for name, value in kwargs.items()}

    def _draw_ids(self) -> None:
        """Make ids random: each tensor below the size of the embedding it goes into, labels below the classes."""
        ids = {t.data_ptr(): t for t in tensors_in(self._inputs) if not t.is_floating_point()}
        if not ids:
            return
        limits: dict[int, int] = {}

        def look(embedding: nn.Embedding, args: tuple[Any, ...]) -> None:
            at = args[0].data_ptr() if args else 0
            if at in ids:
                limits[at] = min(limits.get(at, embedding.num_embeddings), embedding.num_embeddings)

        hooks = [m.register_forward_pre_hook(look) for m in self.module.modules() if isinstance(m, nn.Embedding)]
        try:
            with torch.no_grad():
                output = self._forward()
        finally:
            for hook in hooks:
                hook.remove()
        labels, logits = self._inputs[1].get("labels"), getattr(output, "logits", None)
        if labels is not None and logits is not None:
            limits[labels.data_ptr()] = logits.shape[-1]
        for at, tensor in ids.items():
            if at in limits:
                tensor.random_(0, limits[at])
            else:
                self.notes.append(f"no embedding takes the ids of shape {list(tensor.shape)}: all of them are 0")

    def _forward(self) -> Any:
        args, kwargs = self._inputs
        with torch.autocast(self.device.type, self._dtype, enabled=self.recipe.autocast):
            return self.module(*args, **kwargs)

    def _loss(self) -> torch.Tensor:
        args, kwargs = self._inputs
        with torch.autocast(self.device.type, self._dtype, enabled=self.recipe.autocast):
            return training_loss(self.module(*args, **kwargs), self._make_targets)

    def _make_targets(self, shape: tuple[int, ...], classes: int) -> torch.Tensor:
        """The same at every step."""
        if (shape, classes) not in self._targets:
            self._targets[shape, classes] = torch.randint(classes, shape, device=self.device)
        return self._targets[shape, classes]

    def __call__(self) -> None:
        """The whole step; what it queued may still be running when it returns."""
        if self._optimizer is None:
            with torch.inference_mode():
                self._forward()
            return
        self._optimizer.zero_grad(set_to_none=self.recipe.set_to_none)
        self._scaler.scale(self._loss()).backward()  # type: ignore[no-untyped-call]  # torch does not type it
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def synchronize(self) -> None:
        """Wait until all queued work is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def scale(self) -> float:
        """GradScaler's factor, 1 without one. It falls when a step overflowed and was skipped. Waits for the device."""
        return float(self._scaler.get_scale())


@dataclass(frozen=True)
class Settled:
    """What the warm-up saw: its steps and time, and whether the last windows agreed."""

    steps: int
    took_s: float
    steady: bool


def settle(step: Callable[[], None], synchronize: Callable[[], None], *, least_s: float, limit_s: float) -> Settled:
    """Repeat a step until its time is steady: `least_s` at least and about `limit_s` at most."""
    start_s = time.perf_counter()
    for _ in range(LEAST_WARM_STEPS):
        step()
    synchronize()
    steps, windows_s = LEAST_WARM_STEPS, list[float]()
    while True:
        took_s = time.perf_counter() - start_s
        recent = windows_s[-SETTLE_WINDOWS:]
        steady = len(recent) == SETTLE_WINDOWS and max(recent) <= min(recent) * (1 + SETTLE_SPREAD)
        if (took_s >= least_s and (steady or least_s == 0)) or took_s >= limit_s:
            return Settled(steps, took_s, steady)
        window_start_s, count = time.perf_counter(), 0
        while time.perf_counter() - window_start_s < WINDOW_S:
            step()
            count += 1
        synchronize()
        windows_s.append((time.perf_counter() - window_start_s) / count)
        steps += count


def time_steps(step: Step, count: int) -> list[float]:
    """Seconds of each of `count` steps in a row, launches and all; on a GPU between events, without waiting."""
    if step.device.type != "cuda":
        times = [time.perf_counter()]
        for _ in range(count):
            step()
            times.append(time.perf_counter())
        return _differences(times)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]  # type: ignore[no-untyped-call]
    with torch.cuda.device(step.device):
        events[0].record()
        for event in events[1:]:
            step()
            event.record()
    step.synchronize()
    return [first.elapsed_time(second) * 1e-3 for first, second in itertools.pairwise(events)]


def _differences(times_s: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times_s)]


def profile_steps(
    step: Step, count: int, on_ready: Callable[[Any], None], tell: Callable[[list[float]], dict[str, str]]
) -> list[float]:
    """Run `count` steps under torch.profiler after two of its warm-up; return the host's seconds of each.

    `tell` gives what is added to the trace's head, as JSON by key, from those seconds; `on_ready` gets the profiler.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if step.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    warm, times = 2, list[float]()
    with torch.profiler.profile(
        activities=activities,
        schedule=torch.profiler.schedule(wait=0, warmup=warm, active=count, repeat=1),
        on_trace_ready=on_ready,
        record_shapes=True,
        profile_memory=True,
        with_stack=False,
    ) as profiler:
        for i in range(warm + count):
            step()
            if i in (warm - 1, warm + count - 1):
                step.synchronize()  # no kernel of the warm-up is in the first step, and none of the last is missing
            times.append(time.perf_counter())
            if i == warm + count - 1:
                for key, value in tell(_differences(times[warm - 1 :])).items():
                    profiler.add_metadata_json(key, value)
            profiler.step()
    return _differences(times[warm - 1 :])


def peak_memory(step: Step, run: Callable[[], None]) -> tuple[int | None, int | None]:
    """(allocated, reserved) peaks in bytes of torch's allocator while `run` runs; None on a processor."""
    if step.device.type != "cuda":
        run()
        return None, None
    step.synchronize()
    torch.cuda.reset_peak_memory_stats(step.device)
    run()
    step.synchronize()
    return torch.cuda.max_memory_allocated(step.device), torch.cuda.max_memory_reserved(step.device)


def device_name(step: Step) -> str:
    """The GPU's name as CUDA has it; "cpu" for a processor."""
    return torch.cuda.get_device_name(step.device) if step.device.type == "cuda" else "cpu"
