"""The batch size, read from shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from advisor.profiling.linking.link import link
from advisor.profiling.reading.reader import read_trace
from advisor.profiling.records import BatchSize
from advisor.profiling.steps.batch import read_batch
from advisor.profiling.steps.find import find_steps
from tests.data import recorded_trace
from tests.kineto import KinetoTrace

Call = tuple[str, Sequence[Sequence[int]], float]  # operator, shapes, microseconds of its kernel


def conv(batch: int, channels: int, size: int, time: float) -> Call:
    return "aten::conv2d", [[batch, channels, size, size], [64, channels, 3, 3]], time


def linear(*features: int, time: float) -> Call:
    return "aten::linear", [features, [1000, features[-1]]], time


def batch_of(folder: Path, *calls: Call) -> BatchSize:
    trace = KinetoTrace()
    trace.step(1, 0, 1000 * len(calls))
    for i, (name, dims, time) in enumerate(calls):
        trace.op(name, 1000 * i, 900, dims=dims)
        trace.kernel("kernel", start=1000 * i + 20, duration=time, launched=1000 * i + 10)
    return read(trace.write(folder / "trace.json"))


def read(path: Path) -> BatchSize:
    raw = read_trace(path)
    links = link(raw)
    return read_batch(raw, links, find_steps(raw, links))


def test_the_leading_dimension_of_convolutions_is_the_batch(tmp_path: Path) -> None:
    assert batch_of(tmp_path, conv(48, 3, 224, 50), conv(48, 64, 56, 80), linear(48, 512, time=5)) == BatchSize(
        48, "48 per forward pass: leading dimension of 2 of 2 convolutions, rows of 1 of 1 linear layers"
    )


def test_a_convolution_in_one_or_three_dimensions_tells_it_too(tmp_path: Path) -> None:
    assert batch_of(tmp_path, ("aten::conv1d", [[20, 80, 3000], [384, 80, 3]], 5)).batch == 20
    assert batch_of(tmp_path, ("aten::conv3d", [[6, 3, 16, 112, 112], [64, 3, 3, 7, 7]], 5)).batch == 6


def test_layers_over_a_sequence_and_attention_agree_on_the_batch(tmp_path: Path) -> None:
    query = [12, 16, 1024, 64]
    found = batch_of(
        tmp_path,
        ("aten::embedding", [[50304, 1024], [12, 1024]], 3),
        ("aten::embedding", [[1024, 1024], [1, 1024]], 2),  # positions
        linear(12, 1024, 1024, time=40),
        ("aten::scaled_dot_product_attention", [query, query, query], 30),
        ("aten::cross_entropy_loss", [[12288, 50304], [12288]], 9),
    )
    assert found == BatchSize(
        12,
        "12 per forward pass: leading dimension of the query of 1 of 1 attentions, "
        "leading dimension of the indices of 1 of 2 embeddings, "
        "leading dimension of 1 of 1 linear layers over sequences; "
        "they have 97% of the time, the others see 1 (3% of the time); the loss sees 12288 = 12 x 1024",
    )


def test_rows_of_flattened_layers_are_split_by_the_embedding(tmp_path: Path) -> None:
    found = batch_of(tmp_path, ("aten::embedding", [[30522, 768], [24, 128]], 1), linear(3072, 768, time=90))
    assert found.batch == 24
    assert found.evidence.endswith("; the linear layers' 3072 rows are 24 x 128")


def test_layers_that_keep_the_sequence_first_are_read_by_what_attention_sees(tmp_path: Path) -> None:
    query = [8, 16, 512, 64]
    found = batch_of(
        tmp_path, linear(512, 8, 1024, time=90), ("aten::scaled_dot_product_attention", [query, query, query], 5)
    )
    assert found.batch == 8
    assert "second dimension of those that keep the sequence first" in found.evidence
    found = batch_of(tmp_path, linear(512, 8, 1024, time=90), ("aten::bmm", [[128, 512, 64], [128, 64, 512]], 5))
    assert found.batch == 8  # 128 = 8 x 16 heads, each 512 long
    found = batch_of(tmp_path, linear(8, 512, 1024, time=90), ("aten::bmm", [[128, 512, 64], [128, 64, 512]], 5))
    assert found.batch == 8


def test_plain_rows_are_the_batch_with_a_warning(tmp_path: Path) -> None:
    found = batch_of(tmp_path, linear(4096, 784, time=5), linear(4096, 512, time=5))
    assert found.batch == 4096
    assert found.evidence.endswith("right if a row is a sample: nothing here tells a batch from batch x sequence")


def test_regions_of_a_detector_do_not_hide_the_images(tmp_path: Path) -> None:
    """Backbone 2 images for 60 us of 100, mask head 2 x 512 regions for 40: the time's majority."""
    found = batch_of(tmp_path, conv(2, 3, 800, 60), conv(1024, 256, 14, 40))
    assert found.batch == 2
    assert "1024 (40% of the time)" in found.evidence


def test_without_a_majority_the_model_s_input_decides_if_all_else_are_multiples(tmp_path: Path) -> None:
    found = batch_of(tmp_path, conv(2, 3, 800, 10), conv(1024, 256, 14, 40), conv(1000, 256, 7, 40))
    assert found.batch == 2
    assert "multiples of it" in found.evidence


def test_sizes_that_contradict_each_other_are_said_to_be_ambiguous(tmp_path: Path) -> None:
    found = batch_of(tmp_path, conv(32, 3, 64, 50), conv(48, 3, 64, 50))
    assert found == BatchSize(None, "ambiguous: 32 (50% of the time) or 48 (50% of the time)")


def test_a_call_of_several_kernels_counts_once(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.step(1, 0, 100)
    trace.op("aten::conv2d", 0, 90, dims=[[16, 3, 32, 32], [8, 3, 3, 3], [8]])
    for i in range(3):
        trace.kernel("kernel", start=20 + 10 * i, duration=5, launched=10 + 5 * i)
    assert "1 of 1 convolutions" in read(trace.write(tmp_path / "trace.json")).evidence


def test_a_trace_without_shapes_says_how_to_record_them(tmp_path: Path) -> None:
    trace = KinetoTrace()
    trace.op("aten::conv2d", 0, 90)
    trace.kernel("kernel", start=20, duration=5, launched=10)
    assert read(trace.write(tmp_path / "trace.json")) == BatchSize(
        None, "the trace has no shapes: record it with record_shapes=True"
    )


def test_shapes_of_other_operators_tell_nothing(tmp_path: Path) -> None:
    assert batch_of(tmp_path, ("aten::add", [[32, 4], [32, 4]], 5)).batch is None


def test_hostile_shapes_are_passed_over(tmp_path: Path) -> None:
    odd = [[[1, 2], [3]], [], [0, 5, 5, 5], [-1, -1, -1, -1]]
    for first in odd:
        assert batch_of(tmp_path, ("aten::conv2d", [first, first], 5)).batch is None


@pytest.mark.parametrize(
    "name, batch, evidence",
    [
        ("resnet50_train_b32_fp32_v100", 32, "53 of 53 convolutions"),
        ("sampled_no_device_properties", 2048, "rows of 48 of 50 linear layers"),
        ("alexnet_a100", None, "record_shapes=True"),
        ("triton_kernel_a100", None, "no convolution"),
    ],
)
def test_batch_sizes_of_real_traces(name: str, batch: int | None, evidence: str) -> None:
    found = read(recorded_trace(f"{name}.json.gz"))
    assert found.batch == batch
    assert evidence in found.evidence
