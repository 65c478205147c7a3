"""Memory of a traced step: from its allocations, a known model, or its shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advisor.profiling.advice.memory import (
    GROWTH_ERROR,
    OTHERS_ERROR,
    OTHERS_SHORTFALL,
    SHAPES_ERROR,
    measured_memory,
    modelled_memory,
)
from advisor.profiling.advice.parameters import Parameters
from advisor.profiling.advice.saved import alive_at_backward
from advisor.profiling.linking.link import link
from advisor.profiling.raw import RawTrace
from advisor.profiling.reading.reader import read_trace
from advisor.profiling.steps.find import find_steps
from advisor.recipe import make_recipe
from advisor.step_profile import load_step_profile
from advisor.workload.catalogue import resolve_workload, select_variant
from advisor.workload.schema import Op, Variant
from tests.advisor.profiling.test_workload import RESNET, resnet, training_steps
from tests.data import recorded_trace
from tests.kineto import KinetoTrace


def live(variant: Variant, batch: int) -> int:
    return max(a + b * batch for a, b in variant.live_with_gradients)


def test_the_allocations_of_the_trace_agree_with_the_catalogues_memory_and_with_the_shapes() -> None:
    raw, _, steps, parameters, step = resnet(recorded_trace(RESNET))
    recipe = make_recipe(precision="fp32", layout="nchw")
    variant = Variant("train", "fp32", "nchw", "none", step.ops, ())
    sources = [
        measured_memory(raw, steps, parameters, recipe, 32),
        modelled_memory(variant, parameters, recipe, "resnet50"),
        modelled_memory(variant, parameters, recipe, None),
    ]
    measured, catalogue, shapes = (
        source.curve(np.array([32, 64]), load_step_profile()) for source in sources if source is not None
    )
    assert measured.live_peak_bytes[0] == pytest.approx(2_791_505_408, abs=32)
    assert catalogue.total_bytes == pytest.approx(measured.total_bytes, rel=0.02)
    assert shapes.total_bytes == pytest.approx(measured.total_bytes, rel=0.1)


def test_the_stated_error_of_memory_from_shapes_is_that_over_the_catalogue() -> None:
    errors = []
    for _, variant in training_steps():
        constant, growth = alive_at_backward(variant.ops)
        errors.append(np.log((constant + 32 * growth) / live(variant, 32)))
    assert np.mean(np.abs(errors)) == pytest.approx(SHAPES_ERROR, abs=0.003)
    assert min(errors) > -OTHERS_SHORTFALL


@pytest.mark.parametrize(
    "name, precision", [("DistilBertForMaskedLM", "fp32"), ("RegNetForImageClassification", "fp16")]
)
def test_memory_from_shapes_holds_for_models_that_it_was_not_made_with(name: str, precision: str) -> None:
    pytest.importorskip("transformers")
    shape = (3, 224, 224) if "Image" in name else None
    length = None if shape else 256
    recipe = make_recipe(precision=precision)
    workload = resolve_workload(f"hf:{name}", input_shape=shape, seq_len=length, recipe=recipe)
    variant = select_variant(workload, recipe)
    constant, growth = alive_at_backward(variant.ops)
    assert constant + 32 * growth == pytest.approx(live(variant, 32), rel=OTHERS_ERROR)


def test_what_is_kept_follows_from_what_autograd_keeps() -> None:
    def op(kind: Any, name: str, read: int, write: int, dtype: str = "fp32") -> Op:
        return Op(kind, name, "forward", dtype, (0, read), (0, write))

    first, second = op("gemm", "mm", 40, 40), op("gemm", "mm", 40, 40)
    assert alive_at_backward([first]) == (0, 40)
    assert alive_at_backward([first, op("elementwise", "relu_", 40, 40)]) == (0, 40)  # in place
    assert alive_at_backward([first, op("elementwise", "relu", 40, 40)]) == (0, 40)  # keeps its result, not its input
    assert alive_at_backward([first, op("elementwise", "gelu", 40, 40), second]) == (0, 120)
    assert alive_at_backward([first, second, op("elementwise", "add", 80, 40)]) == (0, 80)  # the sum for one of both
    assert alive_at_backward([first, op("elementwise", "native_dropout", 40, 50)]) == (0, 50)  # a mask of bytes
    assert alive_at_backward([first, op("copy", "contiguous", 40, 40)]) == (0, 40)
    norm = op("norm", "native_layer_norm", 40, 40)
    casts = [op("copy", "_to_copy", 40, 20)] * 3
    assert alive_at_backward([norm, *casts]) == (0, 60)  # three layers cast it, and it goes
    image = Op("conv_fprop", "convolution", "forward", "fp32", (100, 12), (0, 64), dims={})
    assert alive_at_backward([image]) == (0, 64 + 12)
    assert alive_at_backward([first, op("loss", "_log_softmax", 40, 40)]) == (0, 40 + 3 * 40)


def test_the_stated_error_of_memory_that_grows_with_the_batch_is_that_over_the_catalogue() -> None:
    errors = [np.log(8 * live(variant, 32) / live(variant, 256)) for _, variant in training_steps()]
    assert min(errors) > 0  # never too little
    assert np.mean(errors) == pytest.approx(GROWTH_ERROR, abs=0.005)


def test_allocations_that_cannot_be_are_not_believed(tmp_path: Path) -> None:
    trace = linear_steps(tmp_path, [2**52, 2**52, -5])
    steps = find_steps(trace, link(trace))
    assert measured_memory(trace, steps, Parameters((), "none"), make_recipe(), 8) is None


def linear_steps(folder: Path, bytes_: list[int]) -> RawTrace:
    trace = KinetoTrace()
    trace.step(0, 0, 990)
    trace.kernel("k", 100, 50, launched=50)
    for i, change in enumerate(bytes_):
        trace.memory(200.0 + i, change)
    return read_trace(trace.write(folder / "trace.json"))


def test_an_allocator_that_tells_its_totals_is_believed(tmp_path: Path) -> None:
    trace = KinetoTrace()
    for number in range(2):
        start = 1000.0 * number
        trace.step(number, start, 990)
        trace.kernel("k", start + 100, 50, launched=start + 50)
        for i, held in enumerate((1000, 9000, 1000)):
            trace.memory(start + 200 + i, 0)
            trace.events[-1]["args"] |= {"Total Allocated": held, "Total Reserved": 10_000}
    raw = read_trace(trace.write(tmp_path / "trace.json"))
    steps = find_steps(raw, link(raw))
    memory = measured_memory(raw, steps, Parameters(((10,),), "autograd"), make_recipe(optimizer="sgd"), 8)
    assert memory is not None
    assert (memory.static_bytes, memory.live, memory.reserved_share) == (1000, ((0, 1000),), 1000 / 8000)
