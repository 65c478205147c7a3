"""Passes in a step, and traces that are one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advisor.profiling.advice.parameters import find_parameters
from advisor.profiling.advice.passes import count_passes, is_one_step
from advisor.profiling.linking.link import link
from advisor.profiling.reading.reader import read_trace
from advisor.profiling.steps.find import find_steps
from tests.kineto import KinetoTrace

SGEMM = "ampere_sgemm_128x64_tn"


class Run:
    """A trace of linear layers, one operator after another, each 100 us."""

    def __init__(self) -> None:
        self.trace, self.now = KinetoTrace(), 0.0

    def linear(self, rows: int, inputs: int, outputs: int, *, backward: bool = False) -> Run:
        """One layer: aten::addmm, or the gradient of its input behind a node of autograd."""
        if backward:
            self.trace.op("autograd::engine::evaluate_function: AddmmBackward0", self.now, 90, thread=2)
            self.trace.op("AddmmBackward0", self.now + 5, 80, thread=2)
        dims = [[rows, outputs], [outputs, inputs]] if backward else [[outputs], [rows, inputs], [inputs, outputs]]
        self.trace.op("aten::mm" if backward else "aten::addmm", self.now + 10, 60, dims=dims, thread=1 + backward)
        self.trace.kernel(SGEMM, self.now + 40, 40, launched=self.now + 20, grid=(4, 2, 1), thread=1 + backward)
        self.now += 100
        return self

    def embedding(self) -> Run:
        self.trace.op("aten::embedding", self.now, 60, dims=[[1000, 64], [4, 8]])
        self.trace.kernel("indexSelectLargeIndex", self.now + 40, 20, launched=self.now + 20)
        self.now += 100
        return self

    def accumulate(self, *shapes: list[int]) -> Run:
        for shape in shapes:
            self.trace.op("torch::autograd::AccumulateGrad", self.now, 5, dims=[shape], thread=2)
            self.now += 10
        return self

    def update(self) -> Run:
        """An optimizer whose operators show no lists of parameters."""
        self.trace.op("Optimizer.step#SGD.step", self.now, 90)
        self.trace.op("aten::add_", self.now + 10, 60, dims=[[64, 64], [64, 64], []])
        self.trace.kernel("vectorized_elementwise_kernel", self.now + 40, 20, launched=self.now + 20)
        self.now += 100
        return self

    def read(self, folder: Path, *, mark: bool = True) -> tuple[Any, Any, Any]:
        if mark:
            self.trace.step(0, 0, self.now + 50)
        raw = read_trace(self.trace.write(folder / "trace.json"))
        links = link(raw)
        return raw, links, find_steps(raw, links)


def test_accumulated_passes_are_counted_though_the_optimizer_tells_no_lists(tmp_path: Path) -> None:
    run = Run()
    for _ in range(3):
        run.linear(32, 64, 128).linear(32, 128, 10).linear(32, 128, 10, backward=True).accumulate([10, 128], [128, 64])
    found = run.update().read(tmp_path)
    assert count_passes(*found) == 3
    parameters = find_parameters(*found)
    assert (parameters.passes, parameters.elements) == (3, 10 * 128 + 128 * 64)


def test_micro_batches_of_other_lengths_are_passes_all_the_same(tmp_path: Path) -> None:
    run = Run()
    for rows in (32, 48):
        run.linear(rows, 64, 128).linear(rows, 128, 10).linear(rows, 128, 10, backward=True)
    assert count_passes(*run.update().read(tmp_path)) == 2


def test_what_checkpointing_computes_again_is_no_pass(tmp_path: Path) -> None:
    run = Run().linear(32, 64, 128).linear(32, 128, 10).linear(32, 128, 10, backward=True)
    run.linear(32, 64, 128).linear(32, 64, 128, backward=True)  # the first layer once more, for its gradient
    assert count_passes(*run.update().read(tmp_path)) == 1


def test_passes_of_inference_repeat_from_a_layer_that_cannot_follow_on_the_last(tmp_path: Path) -> None:
    run = Run()
    for _ in range(4):
        run.linear(32, 64, 128).linear(32, 128, 10)
    assert count_passes(*run.read(tmp_path)) == 4


def test_equal_layers_are_one_pass_unless_an_embedding_comes_before_each(tmp_path: Path) -> None:
    run = Run()
    for _ in range(12):
        run.linear(32, 64, 64)
    assert count_passes(*run.read(tmp_path)) == 1
    run = Run()
    for _ in range(2):
        run.embedding().linear(32, 64, 64)
    assert count_passes(*run.read(tmp_path)) == 2


def test_a_trace_of_one_optimizer_step_is_one_step(tmp_path: Path) -> None:
    run = Run().linear(32, 64, 128).linear(32, 128, 10, backward=True).update()
    raw, links, steps = run.read(tmp_path, mark=False)
    assert steps.found_by == "none"
    assert is_one_step(raw, links)


@pytest.mark.parametrize("then", ["forward", "update"])
def test_a_trace_that_goes_on_behind_its_optimizer_is_not(tmp_path: Path, then: str) -> None:
    run = Run().linear(32, 64, 128).linear(32, 128, 10, backward=True).update()
    run = run.linear(32, 64, 128) if then == "forward" else run.linear(48, 128, 10, backward=True).update()
    raw, links, _ = run.read(tmp_path, mark=False)
    assert not is_one_step(raw, links)


def test_a_forward_pass_is_one_step_if_its_first_layer_ran_once(tmp_path: Path) -> None:
    once = Run().linear(32, 64, 128).linear(32, 128, 128).linear(32, 128, 128)
    assert is_one_step(*once.read(tmp_path, mark=False)[:2])
    twice = Run().linear(32, 64, 128).linear(32, 128, 10).linear(48, 64, 128)
    assert not is_one_step(*twice.read(tmp_path, mark=False)[:2])


def test_without_layers_nothing_tells_one_step(tmp_path: Path) -> None:
    assert not is_one_step(*Run().update().read(tmp_path, mark=False)[:2])
    empty = KinetoTrace()
    empty.kernel("k", 5, 2)
    raw = read_trace(empty.write(tmp_path / "empty.json"))
    assert not is_one_step(raw, link(raw))
