"""Whole training steps of five catalogue models: time and memory at batch sizes around powers of two.

One step is zero_grad(set_to_none=True), forward under autocast, backward, GradScaler and optimizer, on data that is on
the device already. Case kind "train": model, batch, optimizer, precision ("amp_fp16" or "fp32", then with TF32 off),
layout, cudnn_benchmark. Timing is of whole steps, the host's part included, as a training loop takes them.
"""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from bench.case import Case, Result
from bench.shapes import training_bytes, training_work
from bench.suites import Context, SuiteOptions
from bench.suites.common import Work, cudnn_setting, number, seed_of, tf32_setting, tiers, timed, unfit
from bench.timer import TimerOptions

SUITE = "train"
OPTIMIZERS = {  # model -> the optimizer it is usually trained with
    "resnet50": "sgd", "mobilenet_v3_large": "sgd", "unet": "sgd", "vit_b_16": "adamw", "bert-base-128": "adamw",
}  # fmt: skip
WITHOUT_IMAGES = ("bert-base-128",)
BATCHES = (128, 256, 512, 1024)
SMALL_BATCHES = (8, 16, 32, 64)
# U-Net's images are as much work as some ten of the others', so it is trained with smaller batches.
USUAL_BATCHES = {"unet": {8: 1, 16: 2, 32: 4, 64: 8, 127: 15, 128: 16, 129: 17, 255: 31, 256: 32, 257: 33, 512: 64}}
QUICKLY_TUNED = ("vit_b_16", "bert-base-128")  # one convolution, or none
WARM_STEPS = 2  # after the first; at least, and both with an optimizer step that was not skipped
MOST_WARM_STEPS = 12
LEARNING_RATE = {"sgd": 1e-3, "adamw": 1e-5}  # low enough to stay finite on one batch without a warm-up
SCALE = 2.0**10  # GradScaler's first: low enough that no step overflows and is skipped
HOST_BATCH = 2  # so small that the device is never behind the host
_STEPS: dict[str, Any] = {"samples": 5, "most_samples": 40, "budget_s": 1.5}  # one step is one sample


def train_case(
    model: str,
    batch: int,
    *,
    optimizer: str | None = None,
    precision: str = "amp_fp16",
    layout: str = "nhwc",
    cudnn_benchmark: bool = True,
) -> Case:
    """One model at one batch size. A model without images has layout "any"."""
    return Case(
        SUITE, "train",
        {
            "model": model, "batch": batch, "optimizer": optimizer or OPTIMIZERS[model], "precision": precision,
            "layout": "any" if model in WITHOUT_IMAGES else layout, "cudnn_benchmark": cudnn_benchmark,
        },
    )  # fmt: skip


def cases(options: SuiteOptions) -> list[list[Case]]:
    """Tiers: each model at one batch; the knee; one below and one above; other recipes; everything.

    To try out cuDNN's algorithms for a new batch size takes far longer than to time its steps: networks of convolutions
    have their further batches by its heuristic first.
    """
    models = tuple(OPTIMIZERS)
    if options.smoke:
        return [
            [
                *_sweep(models, (2,), precision="fp32"),
                train_case("bert-base-128", 3),
                train_case("unet", 3, layout="nchw", cudnn_benchmark=False),
            ]
        ]
    if options.quick:
        return []
    convolutional = tuple(model for model in models if model not in QUICKLY_TUNED)
    edges = [batch + by for batch in BATCHES for by in (-1, 1)]
    return tiers(
        _usual(models, (128,)),
        [
            *_usual(QUICKLY_TUNED, (32, 64, 256, 512)),
            *_usual(convolutional, (32, 64, 128, 256, 512), cudnn_benchmark=False),
        ],
        [*_usual(convolutional, (32, 256)), *_usual(QUICKLY_TUNED, (127, 129))],
        [
            *_usual(QUICKLY_TUNED, (8, 16, 255, 257)),
            *_usual(convolutional, (8, 16, 127, 129, 255, 257), cudnn_benchmark=False),
        ],
        _usual(models, (64, 512)),
        _usual(models, (127, 129)),
        [*_usual(models, (8, 16)), *_usual(models, edges[2:4])],
        [*_sweep(models, (*BATCHES[:3], 8)), *_sweep(models, edges[:6])],
        [
            *(
                train_case(model, 128, optimizer="adamw" if usual == "sgd" else "sgd")
                for model, usual in OPTIMIZERS.items()
            ),
            *_usual(models, (64,), precision="fp32"),
            *_usual(models, (64, 128), layout="nchw"),
            *_usual(models, (128,), cudnn_benchmark=False),
        ],
        _sweep(models, (BATCHES[3], *edges[6:])),
        [
            case
            for optimizer in LEARNING_RATE
            for layout in ("nhwc", "nchw")
            for case in _sweep(models, (*SMALL_BATCHES, *BATCHES, *edges), optimizer=optimizer, layout=layout)
        ],
        _sweep(models, (*SMALL_BATCHES, *BATCHES), precision="fp32"),
    )


def _sweep(models: Iterable[str], batches: Iterable[int], **how: Any) -> list[Case]:
    batches = tuple(batches)
    return [train_case(model, batch, **how) for model in models for batch in batches]


def _usual(models: Iterable[str], batches: Iterable[int], **how: Any) -> list[Case]:
    """As `_sweep`, at the batch size that is usual for the model where another has the one given."""
    batches = tuple(batches)
    return [
        train_case(model, USUAL_BATCHES.get(model, {}).get(batch, batch), **how)
        for model in models
        for batch in batches
    ]


# Running -------------------------------------------------------------------------------------------------------------


def work_of(case: Case) -> Work:
    """Of forward and backward, from the catalogue."""
    found = training_work(str(case.params["model"]), number(case, "batch"), **_recipe(case))
    return Work(found.flops, found.read_bytes, found.write_bytes)


def _recipe(case: Case) -> dict[str, str]:
    """As the catalogue calls precision and layout."""
    precision = "amp" if case.params["precision"] == "amp_fp16" else "fp32"
    return {"precision": precision, "layout": str(case.params["layout"]).replace("any", "nhwc")}


def run(case: Case, context: Context) -> Result:
    """Time steps and read the peaks of memory; skipped where the tensors alone exceed what is free.

    facts, in bytes, None on a processor: allocated_peak_bytes and reserved_peak_bytes of the steady steps,
    first_step_peak_bytes (allocated) and first_step_reserved_bytes, context_bytes (used on the device beside what the
    allocator holds: this process's context and, if others use the device, theirs), alloc_retries (over 0: it did not
    really fit). host_s_per_launch: of forward and backward at a batch that the device is done with at once, over
    `launches`, the kernels that the catalogue counts. first_step_s: with all that a first step sets up, and cuDNN's
    algorithms tried out if asked for. skipped_steps: those that the scaler left out while timing.
    """
    model, batch = str(case.params["model"]), number(case, "batch")
    facts: dict[str, Any] = {}
    if not context.smoke:
        least = training_bytes(model, batch, optimizer=str(case.params["optimizer"]), **_recipe(case))
        refusal = unfit(context, least, f"{model} at batch {batch}")
        if refusal is not None:
            return refusal
        facts |= work_of(case).facts()
    with cudnn_setting(autotuned=bool(case.params["cudnn_benchmark"])), _exact_fp32(case):
        try:
            return _measure(case, context, facts)
        finally:
            _free(context)


@contextlib.contextmanager
def _exact_fp32(case: Case) -> Iterator[None]:
    if case.params["precision"] == "fp32":
        with tf32_setting(allowed=False):
            yield
    else:
        yield


def _measure(case: Case, context: Context, facts: dict[str, Any]) -> Result:
    _free(context)
    memory = _Memory(context)
    step = Step(case, context)
    memory.restart()
    start_s = context.device.now_s()
    step()
    context.device.synchronize()
    facts = facts | {"first_step_s": context.device.now_s() - start_s}
    memory.read_first_step()
    skipped = 0
    for steps in range(1, MOST_WARM_STEPS + 1):
        scale = step.scale()
        step()
        skipped += step.scale() < scale
        if steps - skipped >= WARM_STEPS:
            break
    scale = step.scale()
    memory.restart()
    timer = context.timer if context.smoke else replace(context.timer, **_STEPS)
    timing = _time_steps(context, step, timer)
    facts = facts | memory.facts() | _host_facts(case, context, step)
    facts["skipped_steps"] = round(math.log2(scale / step.scale())) if scale > step.scale() else 0
    facts["loss"] = step.loss()
    return replace(timing, facts=facts)


def _time_steps(context: Context, step: Step, timer: TimerOptions) -> Result:
    return timed(context, [step], {}, graph=False, host_included=True, timer=timer)


_HOST_S: dict[tuple[str, ...], float] = {}  # of this process, by model and recipe


def _host_facts(case: Case, context: Context, step: Step) -> dict[str, Any]:
    """The same for every batch size of a recipe, so measured at the first of them in this process."""
    model, recipe = str(case.params["model"]), _recipe(case)
    key = (model, context.torch_device, *recipe.values())
    if key not in _HOST_S:
        _HOST_S[key] = _host_s(case, context, step)
    launches = training_work(model, 1, **recipe).launches
    return {"host_s": _HOST_S[key], "launches": launches, "host_s_per_launch": _HOST_S[key] / launches}


def _host_s(case: Case, context: Context, step: Step) -> float:
    small = replace(case, params={**case.params, "batch": HOST_BATCH})
    x, targets = step.make_batch(small)
    found = []
    with cudnn_setting(autotuned=False):  # trying algorithms out for this batch would take longer than the case
        for _ in range(5):
            step.optimizer.zero_grad(set_to_none=True)
            context.device.synchronize()
            start_s = context.device.now_s()
            step.forward_backward(x, targets)
            found.append(context.device.now_s() - start_s)
        context.device.synchronize()
    return statistics.median(found[1:])  # the first chooses algorithms


class Step:
    """One training step, ready to be called again and again."""

    def __init__(self, case: Case, context: Context) -> None:
        import torch

        from bench import models

        self._models, self._torch = models, torch
        self._name, self._small, self._device = str(case.params["model"]), context.smoke, context.torch_device
        self._amp = case.params["precision"] == "amp_fp16"
        self._channels_last = case.params["layout"] == "nhwc"
        self._kind = self._device.partition(":")[0]
        torch.manual_seed(seed_of(case))
        with torch.device(self._device):
            self.model = models.build(self._name, small=self._small)
        if self._channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stub
        parameters = self.model.parameters()
        self.optimizer: torch.optim.Optimizer
        if case.params["optimizer"] == "sgd":
            self.optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE["sgd"], momentum=0.9, foreach=True)
        else:
            self.optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE["adamw"], foreach=True)
        self._scaler = torch.amp.GradScaler(self._kind, init_scale=SCALE, enabled=self._amp)
        self._x, self._targets = self.make_batch(case)
        self._loss: Any = None

    def make_batch(self, case: Case) -> tuple[Any, Any]:
        """Inputs and targets, seeded by the case, on the device."""
        generator = self._torch.Generator(self._device).manual_seed(seed_of(case))
        return self._models.make_batch(
            self._name, number(case, "batch"), device=self._device, generator=generator,
            channels_last=self._channels_last, small=self._small,
        )  # fmt: skip

    def forward_backward(self, x: Any, targets: Any) -> Any:
        """The loss; gradients are left at the parameters."""
        with self._torch.autocast(self._kind, self._torch.float16, enabled=self._amp):
            loss = self._models.loss_of(self.model(x), targets)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch does not type it
        return loss.detach()

    def __call__(self) -> None:
        """The whole step."""
        self.optimizer.zero_grad(set_to_none=True)
        self._loss = self.forward_backward(self._x, self._targets)
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def scale(self) -> float:
        """The scaler's factor, 1 without one. It falls when a step overflowed and was skipped. Waits for the device."""
        return float(self._scaler.get_scale())

    def loss(self) -> float | None:
        """Of the last step; None if it is not finite."""
        value = float(self._loss)
        return value if math.isfinite(value) else None


class _Memory:
    """Peaks of torch's allocator; nothing on a processor.

    What this process holds already when the case begins (the operands of the drift reference) is no part of the step:
    it is left out of all peaks.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._on_gpu = context.torch_device.startswith("cuda")
        self._first_step: dict[str, int | None] = {"first_step_peak_bytes": None, "first_step_reserved_bytes": None}
        self._others = self._held()
        self._retries = self._alloc_retries()

    def restart(self) -> None:
        """Read peaks from here on."""
        if self._on_gpu:
            import torch

            self._context.device.synchronize()
            torch.cuda.reset_peak_memory_stats(self._context.torch_device)

    def read_first_step(self) -> None:
        allocated, reserved = self._peaks()
        self._first_step = {"first_step_peak_bytes": allocated, "first_step_reserved_bytes": reserved}

    def facts(self) -> dict[str, Any]:
        allocated, reserved = self._peaks()
        retries = self._alloc_retries()
        return self._first_step | {
            "allocated_peak_bytes": allocated,
            "reserved_peak_bytes": reserved,
            "context_bytes": self._context_bytes(),
            "alloc_retries": None if retries is None or self._retries is None else retries - self._retries,
        }

    def _peaks(self) -> tuple[int | None, int | None]:
        if not self._on_gpu:
            return None, None
        import torch

        self._context.device.synchronize()
        name, (allocated, reserved) = self._context.torch_device, self._others
        return torch.cuda.max_memory_allocated(name) - allocated, torch.cuda.max_memory_reserved(name) - reserved

    def _held(self) -> tuple[int, int]:
        if not self._on_gpu:
            return 0, 0
        import torch

        name = self._context.torch_device
        return torch.cuda.memory_allocated(name), torch.cuda.memory_reserved(name)

    def _context_bytes(self) -> int | None:
        if not self._on_gpu:
            return None
        import torch

        free, total = torch.cuda.mem_get_info(self._context.torch_device)
        reserved = torch.cuda.memory_reserved(self._context.torch_device)
        return int(total - free - reserved)

    def _alloc_retries(self) -> int | None:
        if not self._on_gpu:
            return None
        import torch

        return int(torch.cuda.memory_stats(self._context.torch_device).get("num_alloc_retries", 0))


def _free(context: Context) -> None:
    """Give the memory of this case back, so that the next finds what it would find alone: cuBLAS's workspaces too."""
    gc.collect()
    if context.torch_device.startswith("cuda"):
        import torch

        with contextlib.suppress(AttributeError):  # a private name of torch's
            torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
