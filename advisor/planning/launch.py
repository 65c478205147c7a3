"""The command that starts a training script on the GPUs of a plan."""

from __future__ import annotations

NODE_GPUS = 8  # of one machine, where a plan has more GPUs


def launch_command(gpus: int) -> str:
    """Start train.py on `gpus` GPUs: of one machine, or of several with `NODE_GPUS` each where they are more."""
    if gpus == 1:
        return "python train.py"
    if gpus <= NODE_GPUS or gpus % NODE_GPUS:
        return f"torchrun --standalone --nproc-per-node={gpus} train.py"
    return (
        f"torchrun --nnodes={gpus // NODE_GPUS} --nproc-per-node={NODE_GPUS} --rdzv-backend=c10d "
        "--rdzv-endpoint=FIRST_HOST:29500 train.py"
    )
