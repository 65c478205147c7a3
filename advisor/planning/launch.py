"""The command that starts a training script on the GPUs of a plan."""

from __future__ import annotations

NODE_GPUS = 8  # of one machine, where a plan has more GPUs


def machines(gpus: int) -> int:
    """How many machines have these GPUs: several with `NODE_GPUS` each where that comes out even, or one."""
    return 1 if gpus % NODE_GPUS else gpus // NODE_GPUS


def launch_command(gpus: int) -> str:
    """Start train.py on `gpus` GPUs of one machine, or of several."""
    if gpus == 1:
        return "python train.py"
    if machines(gpus) == 1:
        return f"torchrun --standalone --nproc-per-node={gpus} train.py"
    return (
        f"torchrun --nnodes={machines(gpus)} --nproc-per-node={NODE_GPUS} --rdzv-backend=c10d "
        "--rdzv-endpoint=FIRST_HOST:29500 train.py"
    )
