"""The fitted coefficients of the step-time and memory models: where they come from and how wrong they were.

One file per GPU whose training tables exist, in `advisor/profiles/step`. Coefficients are shares of the GPU's own
peaks, so that another GPU is predicted with them and its own facts.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import msgspec

from advisor.decoding import decode_versioned, read_shipped
from advisor.errors import BrokenFileError
from advisor.nearby import Nearby
from advisor.step_costs import coefficients
from advisor.step_neighbours import FEATURES, Neighbours

SCHEMA_VERSION = 1
FOLDER = Path(__file__).parent / "profiles" / "step"
MAX_BYTES = 1 << 20
_CURE = "write it anew with `python -m bench fit-step`"


class HeldOut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """|ln(predicted / measured)| of samples/s over rows that the fit has not seen."""

    mean: float
    median: float
    p90: float
    bias: float  # mean of the signed logarithm
    rows: int
    what: str  # which rows, and how they were held out


class MemoryCoefficients(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the bytes of a traced step do not say."""

    allocator_share: float  # reserved beyond allocated, as a share of the live peak
    overhead_bytes: int  # context, loaded kernels and library workspaces together
    workspace_bytes: int  # of that, cuBLAS's and cuDNN's
    depthwise_workspace: float  # cuDNN's on top: a share of the traffic of the largest depthwise convolution
    driver_bytes: int  # of the card's memory that the driver keeps for itself
    log_error: float  # standard deviation of ln(true / predicted) of the memory of a step
    margin: float  # share added by default


class StepProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fitted coefficients of one GPU's training and inference steps."""

    schema_version: int
    gpu: str  # id of the GPU it was fitted on
    origin: str
    rows: int  # fitted
    train: dict[str, float]  # advisor.step_costs.coefficients, and host_s: the host's time per kernel launch
    infer: dict[str, float]  # the same of the forward pass alone, fitted to inference on newer software
    neighbours: dict[str, Neighbours]  # by layout: the correction beside measured training steps of this GPU
    memory: MemoryCoefficients
    held_out: dict[str, HeldOut]  # "nhwc", "nchw": the same GPU; "other_gpus": predicted from this one
    nearby: dict[str, Nearby] = {}  # by layout and pass, such as "nhwc.fprop": beside convolutions measured alone
    factor: float = 1.0  # on the GPU's time of whole training steps of this very GPU
    measured: str | None = None  # one line, where all this was measured on the very card; None: it is shipped


@lru_cache(maxsize=4)
def load_step_profile(gpu: str = "rtx-3090") -> StepProfile:
    """Return the shipped step profile of a GPU. Raises BrokenFileError naming the file and the cure."""
    path = FOLDER / f"{gpu}.json"
    return parse_step_profile(read_shipped(path, _CURE), str(path))


def parse_step_profile(content: bytes, name: str) -> StepProfile:
    """Decode and check a step profile. Raises BrokenFileError naming the place and the cure."""
    profile = decode_versioned(
        content, StepProfile, f"step profile {name}", version=SCHEMA_VERSION, most_bytes=MAX_BYTES, cure=_CURE
    )
    for mode, values in (("train", profile.train), ("infer", profile.infer)):
        for key, value in values.items():
            if not math.isfinite(value) or (value <= 0 and not key.endswith("exponent")):
                raise BrokenFileError(f"step profile {name}: {mode}.{key} is {value}, no positive number; {_CURE}")
        try:
            coefficients(values)
        except KeyError as error:
            raise BrokenFileError(f"step profile {name}: {mode} lacks {error}; {_CURE}") from error
    for key, known in profile.neighbours.items():
        if len(known.shares) != len(known.weights) or any(len(row) != len(FEATURES) for row in known.shares):
            raise BrokenFileError(f"step profile {name}: neighbours.{key} is not {len(FEATURES)} shares a row; {_CURE}")
    return profile


def step_profile_bytes(profile: StepProfile) -> bytes:
    """The file of a step profile."""
    return msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n"
