"""Cutting a global batch into per-GPU batch x accumulation x GPUs. The global batch stays what the user asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from advisor.choice import Bools, Floats
from advisor.errors import BadInputError, DoesNotFitError

# Cuts whose predicted time per global step differs by no more than this are tied: the one that needs less memory wins.
TIE = 0.005


@dataclass(frozen=True)
class Cut:
    """One way to reach a global batch: `batch` x `accumulation` x `gpus` samples per optimizer step."""

    global_batch: int
    gpus: int
    batch: int
    accumulation: int
    time_s: float  # per optimizer step, communication between GPUs left out
    samples_per_s: float  # over all GPUs

    def __str__(self) -> str:
        """As printed: "64 per GPU x 2 accumulation x 8 GPUs = 1024"."""
        gpus = f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}"
        return f"{self.batch} per GPU x {self.accumulation} accumulation x {gpus} = {self.global_batch}"


def cut_global_batch(
    global_batch: int, gpus: int, *, step_time_s: Floats, update_time_s: float, fits: Bools
) -> tuple[Cut, ...]:
    """Every exact cut of `global_batch` over `gpus` that fits, fastest first, ties by less memory.

    `step_time_s[i]` and `fits[i]` are those of i+1 samples per GPU, the step including one optimizer update, which
    takes `update_time_s` of it; under accumulation the update runs once per global step. Gradient exchange between
    GPUs is not in the times.

    Raises BadInputError where the GPUs cannot share the global batch equally, DoesNotFitError where no exact cut fits.
    """
    per_gpu, rest = divmod(global_batch, gpus)
    if per_gpu == 0 or rest:
        lower, upper = per_gpu * gpus, (per_gpu + 1) * gpus
        nearest = f"{lower} and {upper} can" if lower else f"{upper} is the least that can"
        raise BadInputError(f"global batch {global_batch} cannot be shared equally by {gpus} GPUs; {nearest}")
    batches = np.arange(1, len(fits) + 1)
    exact = batches[fits & (per_gpu % batches == 0)]
    if not len(exact):
        raise DoesNotFitError(
            f"no exact cut of global batch {global_batch} over {gpus} GPUs fits: not even 1 sample per GPU does; "
            "use a GPU with more memory or a smaller model"
        )
    cuts = []
    for batch in exact.tolist():
        accumulation = per_gpu // batch
        time_s = accumulation * (step_time_s[batch - 1] - update_time_s) + update_time_s
        cuts.append(Cut(global_batch, gpus, batch, accumulation, float(time_s), float(global_batch / time_s)))
    best_s = min(cut.time_s for cut in cuts)
    return tuple(
        sorted(
            cuts,
            key=lambda cut: (
                cut.time_s > (1 + TIE) * best_s,
                cut.batch if cut.time_s <= (1 + TIE) * best_s else cut.time_s,
            ),
        )
    )
