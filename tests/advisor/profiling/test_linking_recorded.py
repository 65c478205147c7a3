"""Kernels to launches, operators and shapes, on recorded traces."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from advisor.kernel_names import parse_kernel_name
from advisor.profiling.linked import Links
from advisor.profiling.linking.link import link
from advisor.profiling.linking.passes import split_passes
from advisor.profiling.raw import RawTrace
from advisor.profiling.reading.reader import read_trace
from tests.data import recorded_trace

RESNET, SAMPLED = "resnet50_train_b32_fp32_v100.json.gz", "sampled_no_device_properties.json.gz"

# ResNet-50: (layer, how many of them), from table 1 of He et al., arXiv:1512.03385, with the stride on the 3x3 filter
# as torchvision has it; counted by hand.
RESNET50_LAYERS = {
    "conv 3>64 7x7/2 on 224x224": 1,
    "conv 64>64 1x1 on 56x56": 1,
    "conv 64>64 3x3 on 56x56": 3,
    "conv 64>256 1x1 on 56x56": 4,
    "conv 256>64 1x1 on 56x56": 2,
    "conv 256>128 1x1 on 56x56": 1,
    "conv 128>128 3x3/2 on 56x56": 1,
    "conv 256>512 1x1/2 on 56x56": 1,
    "conv 128>128 3x3 on 28x28": 3,
    "conv 128>512 1x1 on 28x28": 4,
    "conv 512>128 1x1 on 28x28": 3,
    "conv 512>256 1x1 on 28x28": 1,
    "conv 256>256 3x3/2 on 28x28": 1,
    "conv 512>1024 1x1/2 on 28x28": 1,
    "conv 256>256 3x3 on 14x14": 5,
    "conv 256>1024 1x1 on 14x14": 6,
    "conv 1024>256 1x1 on 14x14": 5,
    "conv 1024>512 1x1 on 14x14": 1,
    "conv 512>512 3x3/2 on 14x14": 1,
    "conv 1024>2048 1x1/2 on 14x14": 1,
    "conv 512>512 3x3 on 7x7": 2,
    "conv 512>2048 1x1 on 7x7": 3,
    "conv 2048>512 1x1 on 7x7": 2,
}

STEPS = 6


@pytest.fixture(scope="module")
def resnet() -> tuple[RawTrace, Links]:
    raw = read_trace(recorded_trace(RESNET))
    return raw, link(raw)


@pytest.mark.parametrize(("pass_", "count"), [("fprop", 53), ("dgrad", 52), ("wgrad", 53)])
def test_every_convolution_of_resnet50_is_found_in_each_pass(
    resnet: tuple[RawTrace, Links], pass_: str, count: int
) -> None:
    _, links = resnet
    calls: Counter[str] = Counter()
    for o in links.operations:
        if o.product is not None and o.product.kind == "conv" and o.product.pass_ == pass_:
            calls[o.layer] += o.calls

    expected = dict(RESNET50_LAYERS)
    if pass_ == "dgrad":  # nobody needs the gradient of the images
        del expected["conv 3>64 7x7/2 on 224x224"]
    assert calls == {layer: STEPS * n for layer, n in expected.items()}
    assert sum(expected.values()) == count


def test_every_batch_norm_of_resnet50_is_found_forward_and_backward(resnet: tuple[RawTrace, Links]) -> None:
    _, links = resnet
    calls = Counter(
        {phase: sum(o.calls for o in links.operations if "batch_norm" in o.name and o.phase == phase)
         for phase in ("forward", "backward")}
    )  # fmt: skip

    assert calls == {"forward": STEPS * 53, "backward": STEPS * 53}
    stem = [o for o in links.operations if o.layer == "batch_norm 64 on 112x112"]
    assert Counter((o.phase, o.calls) for o in stem) == {("forward", STEPS): 1, ("backward", STEPS): 1}


def test_phases_of_resnet50_add_up_to_all_kernel_time(resnet: tuple[RawTrace, Links]) -> None:
    raw, links = resnet
    assert (links.operation >= 0).all()
    phases: Counter[str] = Counter()
    for operation, duration in zip(links.operation, raw.kernels.duration_us, strict=True):
        phases[links.operations[operation].phase] += duration

    assert sum(phases.values()) == 594_868
    assert phases == {"forward": 198_641, "backward": 387_328, "optimizer": 8_899}


def test_convolutions_of_one_layer_do_the_same_work_in_every_pass(resnet: tuple[RawTrace, Links]) -> None:
    _, links = resnet
    flops: dict[str, set[int]] = {}
    for o in links.operations:
        if o.product is not None and o.product.kind == "conv":
            flops.setdefault(o.layer, set()).add(o.product.flops)

    assert all(len(values) == 1 for values in flops.values())
    # the stem by hand: 2 x 32 x 112 x 112 pixels x 64 channels x 147 taps
    assert flops["conv 3>64 7x7/2 on 224x224"] == {2 * 32 * 112 * 112 * 64 * 147}


def test_every_backward_convolution_has_the_filter_of_its_forward(resnet: tuple[RawTrace, Links]) -> None:
    raw, links = resnet
    checked = 0
    for i in range(len(links.op)):
        name = raw.names[raw.ops.name[links.op[i]]]
        if name == "aten::cudnn_convolution_backward_input":
            forward = int(links.forward[i])
            assert raw.names[raw.ops.name[forward]] == "aten::cudnn_convolution"
            assert raw.dims[raw.ops.dims[forward]][1] == raw.dims[raw.ops.dims[links.op[i]]][2]
            assert raw.ops.start_us[forward] < raw.ops.start_us[links.op[i]]
            checked += 1
    assert checked > STEPS * 52


def test_kernels_of_both_gradients_in_one_call_would_be_split_as_they_were_launched(
    resnet: tuple[RawTrace, Links],
) -> None:
    # PyTorch of 2021 launched them from two operators, so the truth is known; today's from one.
    raw, links = resnet
    runs: list[list[tuple[str, str]]] = []
    last = ""
    for i in np.argsort(raw.launches.start_us[links.launch], kind="stable"):
        name = raw.names[raw.ops.name[links.op[i]]]
        if not name.startswith("aten::cudnn_convolution_backward_"):
            continue
        pass_ = "dgrad" if name.endswith("_input") else "wgrad"
        if pass_ == "dgrad" and last != "dgrad":
            runs.append([])
        last = pass_
        if runs:
            runs[-1].append((raw.names[raw.kernels.name[i]], pass_))
    complete = [run for run in runs if run[0][1] == "dgrad" and run[-1][1] == "wgrad"]

    for run in complete:
        passes, told = split_passes(tuple(name for name, _ in run), (True, True))
        assert told
        if "wgrad" in passes:
            cut = passes.index("wgrad")
            assert [pass_ for _, pass_ in run][: cut + 1] == ["dgrad"] * cut + ["wgrad"]
    assert len(complete) == STEPS * 52


def test_shapes_of_recorded_products_agree_with_the_grids_of_their_kernels() -> None:
    # CUTLASS lays ceil(n / rows) x ceil(m / columns) tiles out as a grid whose x is multiplied, and whose y divided,
    # by 1, 2, 4 or 8 (GemmIdentityThreadblockSwizzle); cuBLAS is column-major, so the tile's rows run along our n.
    raw = read_trace(recorded_trace(SAMPLED))
    links = link(raw)
    checked = 0
    for i, operation in enumerate(links.operation):
        name = parse_kernel_name(raw.names[raw.kernels.name[i]])
        product = links.operations[operation].product if operation >= 0 else None
        if name.operation != "gemm" or name.tile_rows is None or name.tile_columns is None or product is None:
            continue
        along_n, along_m = -(-product.n // name.tile_rows), -(-product.m // name.tile_columns)
        x, y, z = raw.kernels.grid[i].tolist()
        layouts = {
            (first << shift, -(-second >> shift))
            for first, second in ((along_n, along_m), (along_m, along_n))
            for shift in range(4)
        }
        assert (x, y) in layouts
        assert z % product.batch == 0
        checked += 1
    assert checked == 340


def test_a_trace_without_shapes_still_names_operators() -> None:
    raw = read_trace(recorded_trace("alexnet_a100.json.gz"))
    links = link(raw)

    assert (links.op >= 0).all()
    assert Counter(o.outer for o in links.operations for _ in range(o.calls))["aten::conv2d"] == 20  # and 10 biases
    assert links.notes == ("the trace has no shapes: record it with record_shapes=True",)
    assert all(o.product is None for o in links.operations)


def test_a_generated_kernel_is_its_own_operator() -> None:
    raw = read_trace(recorded_trace("triton_kernel_a100.json.gz"))
    (operation,) = link(raw).operations

    assert operation.name == operation.outer == "triton_poi_fused_add_cos_sin_0"
    assert operation.phase == "forward"
