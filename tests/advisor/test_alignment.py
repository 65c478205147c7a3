from __future__ import annotations

import csv
from collections import defaultdict
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.alignment import (
    _MEASURED_TFLOPS,
    BATCH_NOTE,
    ELEMENT_BYTES,
    alignment_bytes,
    attention_alignment,
    convolution_alignment,
    gemm_alignment,
    linear_alignment,
    measured_rate,
    pad_to_bytes,
)
from advisor.convolution import Convolution
from advisor.errors import BadInputError
from tests.data import measured

A100, V100, T4 = (8, 0), (7, 0), (7, 5)


def test_an_odd_batch_touches_no_operand_in_any_pass_of_a_linear_layer() -> None:
    batch, features_in, features_out = 127, 1024, 4096
    for m, n, k, pass_ in (
        (batch, features_out, features_in, "fprop"),
        (batch, features_in, features_out, "dgrad"),
        (features_out, features_in, batch, "wgrad"),
    ):
        records = gemm_alignment(m, n, k, pass_=pass_, compute_capability=A100)
        assert [r.verdict for r in records] == ["best"] * 3, pass_
        assert batch not in {r.size for r in records}
    assert "batch is contiguous in no operand" in BATCH_NOTE


def test_an_odd_output_is_slow_and_says_what_to_pad_to() -> None:
    *inputs, output = gemm_alignment(2304, 1537, 4096, compute_capability=A100)
    assert [r.verdict for r in inputs] == ["best", "best"]
    assert (output.dimension, output.size, output.alignment_bytes, output.verdict) == ("N", 1537, 2, "slow")
    assert (output.pad_to, output.pad_to_best) == (1544, 1600)
    assert output.measured_rate == pytest.approx(0.29, abs=0.005)


@pytest.mark.parametrize(
    ("precision", "size", "verdict"),
    [("fp16", 8, "good"), ("fp16", 64, "best"), ("fp16", 4, "slow"), ("tf32", 4, "good"), ("tf32", 2, "slow"),
     ("int8", 16, "good"), ("int8", 128, "best"), ("int8", 8, "slow"), ("fp64", 2, "good"), ("fp64", 16, "best")],
)  # fmt: skip
def test_element_sizes_move_the_multiples_as_nvidias_table_says(precision: str, size: int, verdict: str) -> None:
    records = gemm_alignment(8, size, size, precision=precision, compute_capability=A100)
    assert {r.verdict for r in records} == {verdict}


def test_fp8_below_16_bytes_is_refused_by_the_library_and_not_merely_slow() -> None:
    records = gemm_alignment(8, 24, 24, precision="fp8", compute_capability=(9, 0))
    assert {(r.verdict, r.pad_to) for r in records} == {("refused", 32)}


def test_before_a100_a_multiple_of_16_bytes_is_already_best() -> None:
    assert {r.verdict for r in gemm_alignment(8, 8, 8, compute_capability=V100)} == {"best"}
    assert {r.verdict for r in gemm_alignment(8, 8, 8, compute_capability=A100)} == {"good"}


def test_rates_measured_on_an_a100_are_not_shown_for_older_gpus_or_other_element_sizes() -> None:
    for capability, precision in ((V100, "fp16"), (A100, "tf32"), (A100, "int8")):
        records = gemm_alignment(8, 9, 9, precision=precision, compute_capability=capability)
        assert {(r.verdict, r.measured_rate) for r in records} == {("slow", None)}


def test_where_tensor_cores_lack_the_precision_there_is_nothing_to_align() -> None:
    assert gemm_alignment(8, 8, 8, precision="fp32", compute_capability=A100) == ()
    assert gemm_alignment(8, 8, 8, precision="bf16", compute_capability=T4) == ()
    assert gemm_alignment(8, 8, 8, compute_capability=(6, 0)) == ()


def test_convolutions_are_aligned_by_channels_alone() -> None:
    stem = Convolution(33, 3, 224, 224, 64, 7, 7, 2, 2, 3, 3)
    records = convolution_alignment(stem, compute_capability=A100)
    assert [(r.dimension, r.size, r.verdict) for r in records] == [
        ("C", 3, "slow"), ("C/groups", 3, "slow"), ("K", 64, "best")
    ]  # fmt: skip
    depthwise = Convolution(1, 96, 14, 14, 96, 3, 3, pad_h=1, pad_w=1, groups=96)
    assert convolution_alignment(depthwise, compute_capability=A100)[1].size == 1


def test_key_length_counts_only_where_the_scores_go_to_memory() -> None:
    fused = attention_alignment(197, 64, fused=True, compute_capability=A100)
    unfused = attention_alignment(197, 64, fused=False, compute_capability=A100)
    assert [r.verdict for r in fused] == ["best"]
    assert [(r.dimension, r.verdict, r.pad_to) for r in unfused][1] == ("key length", "slow", 200)


def test_linear_layers_name_their_features() -> None:
    records = linear_alignment(768, 1000, compute_capability=A100)
    assert [(r.operand, r.size, r.verdict) for r in records] == [
        ("input", 768, "best"), ("weight", 768, "best"), ("output", 1000, "good")
    ]  # fmt: skip


def test_measured_rates_fall_with_the_alignment() -> None:
    for role in ("contraction", "output"):
        rates = [measured_rate(role, aligned) for aligned in (2, 4, 8, 16, 32, 64, 128)]
        assert rates == sorted(rates)
        assert rates[0] < 0.3
        assert rates[-1] == 1.0


@given(size=st.integers(1, 1 << 20), element=st.sampled_from([1, 2, 4, 8]), target=st.sampled_from([16, 128]))
def test_padding_is_the_least_that_aligns(size: int, element: int, target: int) -> None:
    padded = pad_to_bytes(size, element, target)
    assert padded >= size
    assert alignment_bytes(padded, element) >= target
    assert all(s * element % target for s in range(size, padded))
    assert alignment_bytes(np.array([size]), element).tolist() == [alignment_bytes(size, element)]
    assert pad_to_bytes(np.array([size]), element, target).tolist() == [padded]


def test_unknown_precisions_and_sizes_of_zero_are_refused() -> None:
    with pytest.raises(BadInputError, match="fp4"):
        gemm_alignment(8, 8, 8, precision="fp4", compute_capability=A100)
    with pytest.raises(BadInputError, match="K"):
        gemm_alignment(8, 8, 0, compute_capability=A100)
    assert "fp32" in ELEMENT_BYTES


def test_measured_medians_of_unaligned_sizes_are_those_of_the_public_file() -> None:
    with measured("eleutherai-cookbook-sizing", "alignment_fp16_a100_step1.csv").open() as file:
        rows = list(csv.DictReader(file))
    for role, sweep, dimension in (("contraction", "vocab_h_sweep", "k"), ("output", "vocab_v_sweep", "n")):
        rates = defaultdict(list)
        for row in rows:
            if row["sweep"] == sweep:
                rates[alignment_bytes(int(row[dimension]), 2)].append(float(row["tflops"]))
        for aligned, tflops in _MEASURED_TFLOPS[role].items():
            assert median(rates[aligned]) == pytest.approx(tflops, rel=0.005), (role, aligned)
