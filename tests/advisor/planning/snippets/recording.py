"""What a test copies beside a snippet: data, a small network, and a record of what each process did.

Every sample has its number in its first feature, so the record tells which samples each optimizer step saw.
"""

import atexit
import json
import os
from pathlib import Path

import numpy as np

SAMPLES, TOKENS, FEATURES, CLASSES = int(os.environ["SAMPLES"]), 3, 48, 5
KIND = os.environ["KIND"]  # "images", "sequences"
IGNORED = -100
events: list[
    tuple[str, object]
] = []  # ("saw", numbers of samples), ("step", rate), ("exchange", 1), ("scale", 65536.0)


def make_data() -> tuple[np.ndarray, np.ndarray]:
    """Inputs with a sample's number / 100 as its first feature, and targets; of sequences, unevenly many count."""
    random = np.random.default_rng(1)
    shape = (SAMPLES, 3, 4, 4) if KIND == "images" else (SAMPLES, TOKENS, FEATURES)
    inputs = random.uniform(-1, 1, shape).astype("float32")
    inputs.reshape(SAMPLES, -1)[:, 0] = np.arange(SAMPLES) / 100
    targets = random.integers(0, CLASSES, SAMPLES if KIND == "images" else (SAMPLES, TOKENS))
    if KIND == "sequences":
        targets[random.uniform(size=targets.shape) < 0.4] = IGNORED
        targets[:, 0] = np.abs(targets[:, 0]) % CLASSES
    return inputs, targets


def make_weights() -> list[np.ndarray]:
    """Of two layers, each a kernel and a bias."""
    random = np.random.default_rng(2)
    shapes = [(FEATURES, 6), (6,), (6, CLASSES), (CLASSES,)]
    return [random.uniform(-0.5, 0.5, shape).astype("float32") for shape in shapes]


def saw(inputs: object) -> None:
    """Record the samples of one forward pass."""
    array = np.asarray(inputs)
    events.append(("saw", np.rint(array.reshape(len(array), -1)[:, 0] * 100).astype(int).tolist()))


@atexit.register
def _write() -> None:
    name = f"record{os.environ.get('RANK', os.environ.get('LOCAL_RANK', '0'))}.json"
    Path(name).write_text(json.dumps(events))
