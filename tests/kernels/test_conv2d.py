"""Convolution kernels against float64: every residue class of a strided dgrad, awkward sizes, NaN beyond every edge."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="kernels need torch")

import torch.nn.functional as F  # noqa: E402, N812
import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from hypothesis import Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import kernels.conv2d_parts  # noqa: E402
from kernels.conv2d import (  # noqa: E402
    ConvConfig,
    Geometry,
    conv2d,
    conv2d_dgrad,
    conv2d_dgrad_reference,
    conv2d_forward,
    conv2d_forward_reference,
    conv2d_wgrad,
    conv2d_wgrad_reference,
    conv_spec,
    prepare_conv2d_forward,
    prepare_conv2d_wgrad,
)
from kernels.conv2d_gather import _axis, merging_pays  # noqa: E402

SMALL = ConvConfig(16, 16, 16, stages=1, warps=4)
# Half a unit in the last place, relative; a whole one where the interpreter makes BF16, which it cuts off.
ROUNDING = {
    (torch.float16, "cuda"): 2.0**-11,
    (torch.float16, "cpu"): 2.0**-11,
    (torch.bfloat16, "cuda"): 2.0**-8,
    (torch.bfloat16, "cpu"): 2.0**-7,
}
NAN = float("nan")


def within_nan(shape: tuple[int, ...], dtype: Any, device: str, fill: Any = None) -> Any:
    """A random (or filled) channels_last tensor with NaN before and after it in memory."""
    n, c, h, w = shape
    beyond = 4096
    size = n * c * h * w
    memory = torch.full((beyond + size + beyond,), NAN, dtype=dtype, device=device)
    inner = memory[beyond : beyond + size]
    inner.copy_(torch.randn(size, device=device) if fill is None else torch.full((size,), fill, device=device))
    return inner.view(n, h, w, c).permute(0, 3, 1, 2)


def agrees(got: Any, want: Any) -> bool:
    """Whether every element is the float64 one, rounded once, up to the errors of an FP32 sum."""
    assert got.shape == want.shape
    assert got.is_contiguous(memory_format=torch.channels_last)
    error = (got.double() - want).abs()
    return bool((error <= ROUNDING[got.dtype, got.device.type] * 1.001 * want.abs() + 2e-5 * want.abs().max()).all())


def check_all_passes(
    device: str, n: int, c: int, k: int, size: tuple[int, int], taps: tuple[int, int], *,
    config: ConvConfig | None = SMALL, dtype: Any = torch.float16, passes: str = "fdw", **places: Any,
) -> None:  # fmt: skip
    x, w = within_nan((n, c, *size), dtype, device), within_nan((k, c, *taps), dtype, device)
    y = F.conv2d(x.double(), w.double(), **places)
    dy = within_nan(tuple(y.shape), dtype, device)
    if "f" in passes:
        out = within_nan(tuple(y.shape), dtype, device, NAN)
        assert conv2d_forward(x, w, config=config, out=out, **places) is out
        assert agrees(out, y)
    if "d" in passes:
        out = within_nan((n, c, *size), dtype, device, NAN)
        conv2d_dgrad(dy, w, size, config=config, out=out, **places)
        assert agrees(out, torch.nn.grad.conv2d_input(x.shape, w.double(), dy.double(), **places))
    if "w" in passes:
        out = within_nan((k, c, *taps), dtype, device, NAN)
        conv2d_wgrad(x, dy, taps, config=config, out=out, **places)
        assert agrees(out, torch.nn.grad.conv2d_weight(x.double(), w.shape, dy.double(), **places))


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "taps"),
    [
        ((1, 1), (0, 0), (1, 1), (1, 1)),
        ((1, 1), (1, 1), (1, 1), (3, 3)),
        ((2, 2), (1, 1), (1, 1), (3, 3)),
        ((2, 3), (0, 2), (2, 1), (3, 5)),
        ((4, 2), (3, 0), (2, 4), (2, 3)),
        ((3, 1), (5, 1), (1, 3), (1, 2)),
    ],
)
def test_the_plain_references_are_the_convolution_and_its_gradients(
    stride: Any, padding: Any, dilation: Any, taps: Any
) -> None:
    x, w = torch.randn(2, 3, 11, 12, dtype=torch.float64), torch.randn(4, 3, *taps, dtype=torch.float64)
    places = {"stride": stride, "padding": padding, "dilation": dilation}
    y = F.conv2d(x, w, **places)
    dy = torch.randn_like(y)
    dx = torch.nn.grad.conv2d_input(x.shape, w, dy, **places)
    dw = torch.nn.grad.conv2d_weight(x, w.shape, dy, **places)
    torch.testing.assert_close(conv2d_forward_reference(x, w, **places), y)
    torch.testing.assert_close(conv2d_dgrad_reference(dy, w, (11, 12), **places), dx)
    torch.testing.assert_close(conv2d_wgrad_reference(x, dy, taps, **places), dw)


@pytest.mark.parametrize(
    ("n", "c", "k", "size", "taps", "places"),
    [
        (1, 1, 1, (1, 1), (1, 1), {}),
        (3, 8, 17, (3, 5), (1, 1), {}),
        (1, 17, 8, (5, 4), (3, 3), {"padding": (1, 1)}),
        (1, 33, 16, (3, 3), (3, 3), {"padding": (2, 2)}),
        (3, 3, 17, (7, 7), (5, 5), {"stride": (2, 2), "padding": (2, 2)}),
        (1, 16, 16, (9, 5), (3, 1), {"stride": (3, 2), "padding": (1, 0)}),
        (1, 8, 3, (5, 9), (1, 5), {"padding": (0, 2), "dilation": (1, 2)}),
        (1, 16, 8, (7, 6), (3, 3), {"stride": (2, 3), "padding": (0, 1), "dilation": (2, 1)}),
        (1, 257, 3, (2, 2), (1, 2), {}),
        (1, 3, 257, (2, 2), (2, 1), {}),
    ],
)
def test_all_passes_agree_with_float64(device: str, n: int, c: int, k: int, size: Any, taps: Any, places: Any) -> None:
    check_all_passes(device, n, c, k, size, taps, **places)


@pytest.mark.parametrize("tile", [(32, 16, 16), (16, 32, 16), (16, 16, 32)])
def test_one_past_each_tile_is_right(device: str, tile: tuple[int, int, int]) -> None:
    check_all_passes(device, 1, 33, 33, (3, 11), (1, 1), config=ConvConfig(*tile, stages=1, warps=4, group_m=2))


def test_bfloat16_is_summed_in_fp32_and_rounded_once(device: str) -> None:
    check_all_passes(device, 1, 16, 17, (4, 5), (3, 3), padding=(1, 1), stride=(2, 1), dtype=torch.bfloat16)


def test_the_default_configuration_takes_any_convolution(device: str) -> None:
    check_all_passes(device, 2, 8, 9, (6, 6), (3, 3), config=None, padding=(1, 1))
    check_all_passes(device, 2, 9, 8, (3, 5), (1, 1), config=None)


@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])  # shrinking would take minutes
@given(data=st.data())
def test_random_geometries_agree_with_float64(device: str, data: Any) -> None:
    pick = data.draw
    pair = st.tuples
    stride, dilation = pick(pair(*[st.integers(1, 4)] * 2)), pick(pair(*[st.integers(1, 4)] * 2))
    padding, taps = pick(pair(*[st.integers(0, 3)] * 2)), pick(pair(*[st.integers(1, 3)] * 2))
    least = [max(1, d * (t - 1) + 1 - 2 * p) for d, t, p in zip(dilation, taps, padding, strict=True)]
    size = (least[0] + pick(st.integers(0, 4)), least[1] + pick(st.integers(0, 4)))
    n, c, k = pick(st.sampled_from([1, 3])), pick(st.sampled_from([1, 4, 16, 17])), pick(st.sampled_from([1, 8, 17]))
    config = pick(st.sampled_from([SMALL, ConvConfig(16, 16, 16, 1, 4, split_k=3)]))
    passes = pick(st.sampled_from("fddw"))
    check_all_passes(
        device, n, c, k, size, taps, config=config, passes=passes, stride=stride, padding=padding, dilation=dilation
    )  # fmt: skip


@triton.jit
def _classes_kernel(
    table_ptr, found_ptr, ROWS: tl.constexpr, DGRAD: tl.constexpr  # rows: residue and the rest that `_axis` takes
):  # fmt: skip
    lines = tl.arange(0, ROWS)
    residue = tl.load(table_ptr + lines * 8)
    taps = tl.load(table_ptr + lines * 8 + 1)
    size = tl.load(table_ptr + lines * 8 + 2)
    stride = tl.load(table_ptr + lines * 8 + 3)
    pad = tl.load(table_ptr + lines * 8 + 4)
    dilation = tl.load(table_ptr + lines * 8 + 5)
    gcd = tl.load(table_ptr + lines * 8 + 6)
    inverse = tl.load(table_ptr + lines * 8 + 7)
    count, tap, step, pixels, first, out_step, origin, _in_step, reach = _axis(
        residue, taps, size, stride, pad, dilation, gcd, inverse, DGRAD
    )
    tl.store(found_ptr + lines * 8, count)
    tl.store(found_ptr + lines * 8 + 1, tap)
    tl.store(found_ptr + lines * 8 + 2, step)
    tl.store(found_ptr + lines * 8 + 3, pixels)
    tl.store(found_ptr + lines * 8 + 4, first)
    tl.store(found_ptr + lines * 8 + 5, out_step)
    tl.store(found_ptr + lines * 8 + 6, origin)
    tl.store(found_ptr + lines * 8 + 7, reach)


def test_each_residue_class_holds_exactly_the_taps_that_reach_it(device: str) -> None:
    """Every stride, dilation, padding and filter up to 6, 6, 7 and 5, against the definition, tap by tap."""
    import math

    table = [
        (residue, taps, size, stride, pad, dilation, math.gcd(stride, dilation))
        for stride, dilation, pad, taps, size in itertools.product(
            range(1, 7), range(1, 7), range(8), range(1, 6), (1, 5, 9)
        )
        for residue in range(stride)
    ]
    rows = [(*line, pow(line[5] // line[6], -1, line[3] // line[6])) for line in table]
    length = triton.next_power_of_2(len(rows))
    given_rows = torch.ones((length, 8), dtype=torch.int32, device=device)
    given_rows[: len(rows)] = torch.tensor(rows, dtype=torch.int32)
    found = torch.zeros_like(given_rows)
    _classes_kernel[(1,)](given_rows, found, ROWS=length, DGRAD=True)
    pixels_seen: dict[tuple[int, ...], list[int]] = {}
    for (residue, taps, size, stride, pad, dilation, _), line in zip(table, found.tolist(), strict=False):
        count, tap, step, pixels, first, out_step, origin, reach = line
        in_class = [first + out_step * i for i in range(pixels)]
        assert in_class == [h for h in range(size) if (h + pad) % stride == residue]
        pixels_seen.setdefault((taps, size, stride, pad, dilation), []).extend(in_class)
        reached = [r for r in range(taps) if r * dilation % stride == residue]
        assert [tap + step * t for t in range(count)] == reached
        for i, h in enumerate(in_class):
            sources = [(h + pad - r * dilation) // stride for r in reached]
            assert [origin + i + reach * t for t in range(count)] == sources
    assert all(sorted(seen) == list(range(key[1])) for key, seen in pixels_seen.items())


def test_pixels_that_no_tap_reaches_are_written_as_zeros(device: str) -> None:
    dy = within_nan((1, 8, 3, 3), torch.float16, device, 1.0)
    w = within_nan((8, 4, 1, 1), torch.float16, device, 1.0)
    dx = within_nan((1, 4, 6, 6), torch.float16, device, NAN)
    conv2d_dgrad(dy, w, (6, 6), stride=(2, 2), config=SMALL, out=dx)
    assert (dx[:, :, ::2, ::2] == 8).all()
    assert int(dx.count_nonzero()) == 4 * 9


def test_stride_and_dilation_with_a_common_factor_leave_empty_classes(device: str) -> None:
    """Taps at 0 and 2 with stride 2 meet even rows and columns only: three of the four classes hold no product."""
    check_all_passes(device, 1, 4, 4, (7, 7), (2, 2), passes="d", stride=(2, 2), dilation=(2, 2))
    check_all_passes(device, 1, 4, 4, (9, 7), (2, 1), passes="d", stride=(4, 3), dilation=(2, 3), padding=(1, 0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_split_k_gives_the_same_bits_every_time(device: str, dtype: Any) -> None:
    config = ConvConfig(16, 16, 16, stages=1, warps=4, split_k=3)
    check_all_passes(device, 2, 17, 8, (5, 5), (3, 3), config=config, dtype=dtype, padding=(1, 1))
    x, dy = within_nan((2, 8, 5, 5), dtype, device), within_nan((2, 8, 5, 5), dtype, device)
    launch = prepare_conv2d_wgrad(x, dy, (1, 1), config=config)
    assert torch.equal(launch().clone(), launch())


def test_more_splits_than_steps_leave_empty_ones_that_add_nothing(device: str) -> None:
    config = ConvConfig(16, 16, 16, stages=1, warps=4, split_k=5)
    check_all_passes(device, 1, 8, 8, (3, 3), (1, 2), config=config)  # one step over both taps at once
    check_all_passes(device, 1, 16, 16, (3, 3), (1, 2), config=config)  # a step per tap


def test_a_default_fits_the_product_and_splits_k_only_where_ctas_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.conv2d_parts, "_capability", lambda device: (8, 0))
    monkeypatch.setattr(kernels.conv2d_parts, "_sms", lambda device: 108)
    choose = kernels.conv2d_parts._default_config.__wrapped__
    at = torch.device("cuda", 0)
    large = choose("forward", 256 * 56 * 56, 128, 9 * 128, at, True)
    assert (large.tile_m, large.tile_n, large.split_k) == (128, 128, 1)
    # 64 x 576 weights are a handful of tiles: 108 SMs need the pixels of the batch cut into parts
    weights = choose("wgrad", 64, 9 * 64, 256 * 56 * 56, at, True)
    assert weights.split_k > 1
    # one image of 7 x 7: one row of tiles, K of 4608
    assert choose("forward", 49, 512, 9 * 512, at, True).split_k > 1
    # one pixel: too short a K to split, yet there is a default
    assert choose("wgrad", 8, 8, 1, at, True).split_k == 1
    assert choose("forward", 49, 3, 27, at, False).split_k == 1


def test_few_channels_run_over_all_taps_at_once() -> None:
    # 49 taps of 3 channels in steps of 32: ceil(147/32) = 5 against 49; 9 taps of 96: 27 against 9*2 = 18 of 64
    assert merging_pays(49, 3, 32)
    assert not merging_pays(9, 64, 32)  # 64 is a multiple of 32: nothing idle
    assert merging_pays(9, 96, 64) is False  # 14 against 18 steps: 14/18 = 0.78 saves less than a quarter
    assert merging_pays(9, 65, 64)  # 10 against 18


def test_a_prepared_launch_reads_its_operands_anew(device: str) -> None:
    x, w = within_nan((1, 8, 4, 4), torch.float16, device), within_nan((8, 8, 3, 3), torch.float16, device)
    launch = prepare_conv2d_forward(x, w, config=SMALL)
    launch()
    x.mul_(2)
    assert agrees(launch(), F.conv2d(x.double(), w.double()))


def test_an_empty_batch_gives_an_empty_result_and_zero_gradients(device: str) -> None:
    x, w = within_nan((0, 8, 4, 4), torch.float16, device), within_nan((4, 8, 3, 3), torch.float16, device)
    assert conv2d_forward(x, w).shape == (0, 4, 2, 2)
    dy = within_nan((0, 4, 2, 2), torch.float16, device)
    assert conv2d_wgrad(x, dy, (3, 3)).eq(0).all()


def test_gradients_flow_through_conv2d(device: str) -> None:
    x, w = within_nan((1, 8, 5, 5), torch.float16, device), within_nan((8, 8, 3, 3), torch.float16, device)
    x.requires_grad_()
    w.requires_grad_()
    y = conv2d(x, w, stride=(2, 2), padding=(1, 1), configs=dict.fromkeys(("forward", "dgrad", "wgrad"), SMALL))
    dy = torch.randn_like(y)
    y.backward(dy)
    places = {"stride": 2, "padding": 1}
    with torch.no_grad():
        assert agrees(x.grad, torch.nn.grad.conv2d_input(x.shape, w.double(), dy.double(), **places))
        assert agrees(w.grad, torch.nn.grad.conv2d_weight(x.double(), w.shape, dy.double(), **places))


def test_grouped_and_depthwise_convolutions_are_refused_and_left_to_cudnn(device: str) -> None:
    x, w = within_nan((1, 8, 4, 4), torch.float16, device), within_nan((8, 1, 3, 3), torch.float16, device)
    calls: list[Callable[[], Any]] = [
        lambda: conv2d(x, w, groups=8),
        lambda: conv2d_forward(x, w, groups=8),
        lambda: conv2d_dgrad(x, w, (6, 6), groups=8),
        lambda: conv2d_wgrad(x, x, (1, 1), groups=2),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"left to cuDNN \(torch.nn.functional.conv2d\)$"):
            call()


def test_bad_input_is_said_in_one_line(device: str) -> None:
    x, w = within_nan((1, 8, 4, 4), torch.float16, device), within_nan((8, 8, 3, 3), torch.float16, device)
    refused: list[tuple[Callable[[], Any], str]] = [
        (lambda: conv2d_forward(x.contiguous(), w), r"call \.contiguous\(memory_format=torch\.channels_last\)"),
        (lambda: conv2d_forward(x.float(), w), r"x is torch.float32, w is torch.float16: all must be"),
        (lambda: conv2d_forward(x[0], w), r"x has shape \(8, 4, 4\): it must have four dimensions"),
        (lambda: conv2d_forward(x, within_nan((8, 4, 3, 3), torch.float16, device)), "x has 8 channels and the filt"),
        (lambda: conv2d_forward(x, w, stride=(0, 1)), r"stride is \(0, 1\): both must be 1 or more"),
        (lambda: conv2d_forward(x, w, padding=1), r"padding is 1: it must be two whole numbers"),  # what is refused
        (lambda: conv2d_forward(x, w, dilation=(2, 1)), "height 4 with padding 0 is less than the reach 5"),
        (lambda: conv2d_forward(x, w, out=x), r"out is \(1, 8, 4, 4\) .* make it \(1, 8, 2, 2\)"),
        (lambda: conv2d_dgrad(x, w, (9, 9)), r"dy is \(1, 8, 4, 4\): this convolution .* gives \(1, 8, 7, 7\)"),
        (lambda: conv2d_wgrad(x, x, (3, 3)), r"dy is \(1, 8, 4, 4\): this convolution .* gives \(1, 8, 2, 2\)"),
        (lambda: Geometry(2**20, 8, 112, 112, 8, 1, 1), "pixels of the batch pass .*: split the batch"),
        (lambda: ConvConfig(48, 16, 16, 1, 4), "tile_m is 48: .* a power of two"),
        (
            lambda: conv_spec("fprop", SMALL),
            "unknown pass 'fprop': it is one of forward, dgrad, wgrad",
        ),  # what is refused
    ]
    for call, line in refused:
        with pytest.raises(ValueError, match=line) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_aligned_channels_load_16_bytes_at_a_time_and_use_tensor_cores(compiled: Callable[[str], Any]) -> None:
    facts = compiled("""
from kernels.compile import compile_all
from kernels.conv2d import ConvConfig, conv_spec
config = ConvConfig(64, 64, 32, stages=3, warps=4)
specs = [conv_spec(pass_, config) for pass_ in ("forward", "dgrad", "wgrad")]
specs += [conv_spec("forward", config, aligned=False)]
answer = [
    (f.matrix_instruction, f.spills, f.wide_loads, f.narrow_loads) for f in compile_all(specs, (8, 0), workers=2)
]
""")
    *aligned, unaligned = facts
    for matrix_instruction, spills, wide_loads, narrow_loads in aligned:
        assert matrix_instruction == "HMMA"
        assert not spills
        assert wide_loads > 0
        assert narrow_loads == 0
    assert unaligned[0] == "HMMA"
    assert unaligned[2] == 0


def resnet50_convolutions() -> list[tuple[int, int, int, int, int]]:
    """The distinct ones (c_in, c_out, filter, stride, input side) of torchvision's v1.5. Source: arXiv:1512.03385."""
    found = {(3, 64, 7, 2, 224)}
    c_in = 64
    for width, blocks, side in ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)):
        stride = 1 if width == 64 else 2
        for block in range(blocks):
            s = stride if block == 0 else 1
            found |= {
                (c_in, width, 1, 1, side * s),
                (width, width, 3, s, side * s),
                (width, 4 * width, 1, 1, side),
            }
            if block == 0:
                found.add((c_in, 4 * width, 1, s, side * s))
            c_in = 4 * width
    return sorted(found)


def test_resnet50_has_its_known_number_of_distinct_convolutions() -> None:
    # the stem; in the first stage 64->64 (1x1, 3x3), 64->256 and 256->64; in each of the others the same four, with
    # the strided 3x3 and the strided shortcut besides
    assert len(resnet50_convolutions()) == 1 + 4 + 3 * 6


@pytest.mark.gpu
@pytest.mark.parametrize("shape", resnet50_convolutions())
def test_resnet50_agrees_with_cudnn(shape: tuple[int, int, int, int, int]) -> None:
    c, k, taps, stride, side = shape
    check_all_passes(
        "cuda", 8, c, k, (side, side), (taps, taps), config=None, stride=(stride, stride), padding=(taps // 2,) * 2
    )


@pytest.mark.gpu
def test_a_batch_of_more_than_2_31_elements_is_right_to_its_last_image() -> None:
    batch = 4096  # of 64 x 112 x 112: 3.3e9 elements, 6.6 GB each of x and y
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    x = torch.randn((batch, 64, 112, 112), dtype=torch.float16, device="cuda").to(memory_format=torch.channels_last)
    w = within_nan((64, 64, 3, 3), torch.float16, "cuda")
    config = ConvConfig(128, 64, 32, stages=3, warps=4)
    last = x[-2:].contiguous(memory_format=torch.channels_last)
    y = conv2d_forward(x, w, padding=(1, 1), config=config)[-2:].clone()
    assert agrees(y.contiguous(memory_format=torch.channels_last), F.conv2d(last.double(), w.double(), padding=1))
    dx = conv2d_dgrad(x, w, (112, 112), padding=(1, 1), config=config)[-2:].clone()
    want = torch.nn.grad.conv2d_input(last.shape, w.double(), last.double(), padding=1)
    assert agrees(dx.contiguous(memory_format=torch.channels_last), want)
