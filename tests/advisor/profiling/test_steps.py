"""Steps of a trace: by marks, by repeated ranges, by period."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from advisor.profiling.linked import Links, StepSpans
from advisor.profiling.linking.link import link
from advisor.profiling.raw import RawTrace
from advisor.profiling.reading.reader import read_trace
from advisor.profiling.steps.find import find_steps
from advisor.profiling.steps.periods import step_bounds
from tests.data import recorded_trace
from tests.kineto import KinetoTrace


def steps_of(trace: KinetoTrace, folder: Path) -> StepSpans:
    raw = read_trace(trace.write(folder / "trace.json"))
    return find_steps(raw, link(raw))


def unmarked(raw: RawTrace) -> RawTrace:
    marks = raw.marks
    return replace(raw, marks=type(marks)(*(getattr(marks, field.name)[:0] for field in fields(marks))))


def pauses(kernels: int) -> np.ndarray:
    return np.ones(kernels)


# marks


def test_a_kernel_belongs_to_the_step_that_launched_it_even_if_it_runs_in_the_next(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.step(1, 0, 100)
    trace.step(2, 100, 100)
    trace.kernel("a", start=20, duration=10, launched=5)
    trace.kernel("b", start=130, duration=10, launched=95)
    trace.kernel("c", start=150, duration=10, launched=105)
    steps = steps_of(trace, tmp_path)
    assert (steps.found_by, steps.names) == ("ProfilerStep", ("ProfilerStep#1", "ProfilerStep#2"))
    assert steps.kernel_step.tolist() == [0, 0, 1]
    assert steps.end_us - steps.start_us == pytest.approx([100, 100])


@pytest.mark.parametrize("old", [False, True])
def test_a_kernel_without_launch_belongs_to_the_step_in_which_it_began(tmp_path: Path, old: bool) -> None:
    trace = KinetoTrace(old=old)
    trace.step(1, 0, 100)
    trace.step(2, 100, 100)
    trace.kernel("a", start=99, duration=10)
    trace.kernel("a", start=110, duration=10)
    trace.kernel("a", start=300, duration=10)  # after all steps
    assert steps_of(trace, tmp_path).kernel_step.tolist() == [0, 1, -1]


def test_a_mark_that_launched_nothing_at_the_end_of_the_recording_is_no_step(tmp_path: Path) -> None:
    trace = KinetoTrace()
    for number in (7, 8, 9):
        trace.step(number, 100 * number, 100)
    trace.kernel("a", start=705, duration=10, launched=701)
    trace.kernel("a", start=805, duration=10, launched=801)
    assert steps_of(trace, tmp_path).names == ("ProfilerStep#7", "ProfilerStep#8")


def test_overlapping_marks_are_cut_where_the_next_begins_and_inner_ones_left_out(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.step(1, 0, 150)
    trace.step(2, 100, 100)
    trace.step(3, 120, 30)  # inside the second
    for at in (10, 110, 130):
        trace.kernel("a", start=at + 5, duration=1, launched=at)
    steps = steps_of(trace, tmp_path)
    assert steps.names == ("ProfilerStep#1", "ProfilerStep#2")
    assert steps.end_us - steps.start_us == pytest.approx([100, 100])
    assert steps.kernel_step.tolist() == [0, 1, 1]


def test_a_mark_without_end_lasts_until_the_next_begins_and_the_last_until_the_trace_ends(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.step(1, 0, 0)
    trace.step(2, 100, 0)
    trace.kernel("a", start=40, duration=1, launched=30)
    trace.kernel("a", start=160, duration=20, launched=150)
    steps = steps_of(trace, tmp_path)
    assert steps.end_us - steps.start_us == pytest.approx([100, 80])
    assert steps.kernel_step.tolist() == [0, 1]


def test_marks_of_another_thread_do_not_double_the_steps(tmp_path: Path) -> None:
    trace = KinetoTrace()
    for number in (1, 2, 3):
        trace.step(number, 100 * number, 100)
        trace.kernel("a", start=100 * number + 20, duration=10, launched=100 * number + 10)
    trace.op("ProfilerStep#1", 90, 400, thread=2, category="user_annotation")
    assert len(steps_of(trace, tmp_path).names) == 3


def test_a_first_step_longer_than_1_2_times_the_others_does_not_stand_for_them(tmp_path: Path) -> None:
    def regular(first: float) -> tuple[int, ...]:
        trace = KinetoTrace()
        for number, start, duration in ((1, 0, first), (2, 200, 100), (3, 300, 100), (4, 400, 100)):
            trace.step(number, start, duration)
            trace.kernel("a", start=start + 20, duration=10, launched=start + 10)
        return steps_of(trace, tmp_path).regular

    assert regular(119) == (0, 1, 2, 3)
    assert regular(121) == (1, 2, 3)


def test_a_last_step_cut_off_by_the_end_of_the_trace_does_not_stand_for_the_others(tmp_path: Path) -> None:
    trace = KinetoTrace()
    for number in range(4):
        trace.step(number, 100 * number, 100)
        for i in range(10 if number < 3 else 7):  # 7 < 0.8 x 10
            trace.kernel("a", start=100 * number + 5 * i + 8, duration=1, launched=100 * number + 5 * i)
    assert steps_of(trace, tmp_path).regular == (0, 1, 2)


# ranges


@pytest.mark.parametrize("old", [False, True])
def test_a_repeated_range_with_most_kernels_is_the_step_not_its_parts_nor_the_epoch(tmp_path: Path, old: bool) -> None:
    trace = KinetoTrace(old=old)
    trace.op("epoch 1", 0, 1000, category="user_annotation")
    for i in range(3):
        start = 10 + 300 * i
        trace.op(f"iteration {i}", start, 280, category="user_annotation")
        for part in range(2):  # of equals, the one that repeats least is the outer one
            trace.op("micro batch", start + 1 + 130 * part, 128, category="user_annotation")
            for k in range(5):
                at = start + 5 + 130 * part + 20 * k
                trace.kernel("gemm", start=at + 9, duration=5, launched=at)
    steps = steps_of(trace, tmp_path)
    assert (steps.found_by, steps.names) == ("annotation", ("iteration 0", "iteration 1", "iteration 2"))
    assert np.bincount(steps.kernel_step).tolist() == [10, 10, 10]


def test_a_range_that_misses_a_third_of_the_kernels_is_no_step(tmp_path: Path) -> None:
    trace = KinetoTrace()
    for i in range(4):
        trace.op("forward", 100 * i, 60, category="user_annotation")
        for k in range(3):
            trace.kernel("gemm", start=100 * i + 30 * k + 9, duration=5, launched=100 * i + 30 * k + 5)
    assert steps_of(trace, tmp_path).found_by == "none"


def test_a_range_that_leaves_the_optimizer_out_yields_to_the_period(tmp_path: Path) -> None:
    def trace(names: str) -> KinetoTrace:
        trace = KinetoTrace()
        for i in range(4):
            trace.op("forward_backward", 200 * i, 89, category="user_annotation")
            for k, name in enumerate(names):
                trace.kernel(name, start=200 * i + 10 * k + 9, duration=5, launched=200 * i + 10 * k + 1)
        return trace

    whole = steps_of(trace("abcdefghij"), tmp_path)  # "j", launched after 91 us, is outside the range
    assert (whole.found_by, np.bincount(whole.kernel_step).tolist()) == ("period", [10] * 4)
    part = steps_of(trace("aaabbbcccc"), tmp_path)  # three kernels: too few for a period
    assert (part.found_by, np.bincount(part.kernel_step + 1).tolist()) == ("annotation", [4, 9, 9, 9, 9])


# periods


def transformer(layers: int = 6, *, extra: tuple[int, ...] = (), skip_optimizer: bool = False) -> list[int]:
    """Kernels of one training step: 0 embedding; 10.. layer forward; 1-3 loss; 20.. layer backward; 4-6 optimizer."""
    forward = [10, 11, 12, 13, 10, 11, 14, 15] * layers
    backward = [20, 21, 12, 13, 20, 22, 12, 13, 15] * layers
    optimizer = [] if skip_optimizer else [4, 4, 4, 5, 6]
    return [0, *extra, *forward, 1, 2, 3, *backward, *optimizer]


@pytest.mark.parametrize("steps", [2, 3, 4, 25])
def test_the_period_of_a_transformer_is_its_step_not_its_layer(steps: int) -> None:
    length = len(transformer())
    bounds = step_bounds(np.array(transformer() * steps), pauses(length * steps))
    assert bounds.tolist() == [length * i for i in range(steps + 1)]


def test_one_step_alone_has_no_period() -> None:
    assert not len(step_bounds(np.array(transformer(layers=48)), pauses(len(transformer(layers=48)))))


def test_the_layers_of_one_forward_pass_are_no_steps() -> None:
    forward = [0, 1, *[10, 11, 12, 13, 10, 11, 14, 15] * 32, 2, 3, 4]
    assert not len(step_bounds(np.array(forward), pauses(len(forward))))


def test_a_loop_over_a_few_kernels_is_no_training_step() -> None:
    assert not len(step_bounds(np.array([0, 1, 2] * 400), pauses(1200)))
    assert not len(step_bounds(np.array([], dtype=np.int64), pauses(0)))


def test_a_first_step_that_tries_many_algorithms_does_not_hide_the_period() -> None:
    first = transformer(extra=tuple(range(100, 130)) * 5)  # 30 kernels that never come again
    tokens = np.array(first + transformer() * 4)
    bounds = step_bounds(tokens, pauses(len(tokens)))
    assert np.diff(bounds).tolist() == [len(first), *[len(transformer())] * 4]


def test_a_skipped_optimizer_step_moves_no_other_boundary() -> None:
    parts = [transformer(), transformer(skip_optimizer=True), transformer(), transformer(), transformer()]
    tokens = np.array([token for part in parts for token in part])
    assert np.diff(step_bounds(tokens, pauses(len(tokens)))).tolist() == [len(part) for part in parts]


def test_micro_batches_are_not_taken_for_steps_where_the_optimizer_repeats() -> None:
    micro = transformer(skip_optimizer=True)
    step = micro * 4 + [4, 4, 4, 5, 6, 7, 8]
    bounds = step_bounds(np.array(step * 5), pauses(5 * len(step)))
    assert np.diff(bounds).tolist() == [len(step)] * 5


def test_what_is_logged_every_tenth_step_does_not_make_ten_steps_one() -> None:
    step = transformer()
    tokens = np.array(([*step, 90] + step * 9) * 4)
    assert len(step_bounds(tokens, pauses(len(tokens)))) == 41


def test_a_sequence_that_begins_amid_a_step_is_cut_at_the_longest_pause() -> None:
    length = len(transformer())
    tokens, waits = np.array(transformer() * 6), pauses(length * 6)
    waits[::length] = 50  # before each step's first kernel
    bounds = step_bounds(tokens[40:-30], waits[40:-30])
    assert bounds.tolist() == [length * i - 40 for i in range(1, 6)]


def test_a_million_kernels_are_cut_into_steps() -> None:
    step = transformer(layers=48)
    steps = 1_000_000 // len(step)
    bounds = step_bounds(np.array(step * steps), pauses(len(step) * steps))
    assert np.array_equal(bounds, len(step) * np.arange(steps + 1))


def test_periods_are_found_though_shapes_choose_other_tiles(tmp_path: Path) -> None:
    trace = KinetoTrace()
    names = ["embedding", "gemm_{}x64", "softmax", "gemm_{}x128", "gelu", "loss", "loss_backward", "gemm_{}x32", "adam"]
    at = 0.0
    for i in range(4):
        for j, name in enumerate(names):
            trace.kernel(name.format(32 * (1 + (i + j) % 4)), start=at + 8, duration=5, launched=at)
            at += 10
    steps = steps_of(trace, tmp_path)
    assert (steps.found_by, np.bincount(steps.kernel_step).tolist()) == ("period", [9, 9, 9, 9])


def test_a_step_found_by_period_begins_with_the_copy_of_its_input(tmp_path: Path) -> None:
    trace = KinetoTrace()
    at = 0.0
    for _ in range(3):
        trace.copy("Memcpy HtoD (Pageable -> Device)", at + 8, 5, 1000, launched=at)
        for name in "abcdefghi":
            at += 10
            trace.kernel(name, start=at + 8, duration=5, launched=at)
        at += 10
    steps = steps_of(trace, tmp_path)
    assert steps.start_us - steps.start_us[0] == pytest.approx([0, 100, 200])
    assert steps.copy_step.tolist() == [0, 1, 2]


# real traces


def real(name: str) -> tuple[RawTrace, Links]:
    raw = read_trace(recorded_trace(name))
    return raw, link(raw)


def test_the_resnet_trace_has_six_steps_of_1478_kernels() -> None:
    raw, links = real("resnet50_train_b32_fp32_v100.json.gz")
    steps = find_steps(raw, links)
    assert steps.names == tuple(f"ProfilerStep#{i}" for i in range(5, 11))
    assert np.bincount(steps.kernel_step).tolist() == [1478] * 6
    assert steps.end_us - steps.start_us == pytest.approx([181565, 123884, 126824, 126272, 163461, 116146])
    assert steps.regular == (1, 2, 3, 4, 5)


def test_without_its_marks_the_resnet_trace_has_the_same_steps() -> None:
    raw, links = real("resnet50_train_b32_fp32_v100.json.gz")
    marked, found = find_steps(raw, links), find_steps(unmarked(raw), links)
    assert found.found_by == "period"
    assert np.array_equal(found.kernel_step, marked.kernel_step)
    assert np.array_equal(found.copy_step, marked.copy_step)
    # a mark begins with the wait for data, a found step with the copy of the input: 8.6 ms later in the first step
    assert found.start_us - marked.start_us == pytest.approx([8556, 2834, 2857, 3982, 5528, 4176])


def test_a_trace_of_one_kernel_and_no_marks_has_no_steps() -> None:
    raw, links = real("triton_kernel_a100.json.gz")
    steps = find_steps(unmarked(raw), links)
    assert (steps.found_by, steps.names, steps.regular, steps.kernel_step.tolist()) == ("none", (), (), [-1])


def test_a_step_found_by_its_period_is_not_held_against_the_last_one_whose_end_nothing_marks(tmp_path: Path) -> None:
    """The host launches a step of 1000 us in 100 us, then waits: only the next step's launches end it."""
    trace = KinetoTrace()
    for step in range(3):
        for i in range(10):
            trace.kernel(f"kernel_{'abcdefghij'[i]}", 1000 * step + 100 * i, 99, launched=1000 * step + 10 * i)
    raw = read_trace(trace.write(tmp_path / "trace.json"))
    spans = find_steps(raw, link(raw))
    assert (spans.found_by, spans.regular) == ("period", (0, 1, 2))
