from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.convolution import Convolution
from advisor.gemm import gemm_time
from advisor.gpus import find_gpu
from advisor.profile import load_profile
from advisor.profiling.bill.quantized import fuller_batches, quantization_loss, read_tiling
from advisor.profiling.bill.timing import Call, TimeModel, algorithm_of, pass_of_group
from advisor.profiling.records import KernelGroup, Operation, Product
from advisor.step_costs import wave_cost
from tests.advisor.profiling.priced import convolution, group, linear

A100, V100 = find_gpu("a100-sxm4-80gb"), find_gpu("v100-sxm2-16gb")
ON_A100, ON_V100 = TimeModel(A100), TimeModel(V100)
DOWN = Convolution(32, 1024, 14, 14, 256, 1, 1)  # ResNet-50's 1024>256 1x1 at batch 32
PLAIN = Convolution(32, 256, 14, 14, 256, 3, 3, pad_h=1, pad_w=1)


def share(of: KernelGroup, operation: Operation, model: TimeModel = ON_A100) -> float:
    found = quantization_loss(of, operation, model)
    assert found is not None
    return found.share


# Predicted times ------------------------------------------------------------------------------------------------------


def test_a_traced_gemm_takes_the_gemm_models_time_less_the_launch() -> None:
    found = ON_A100.predict([Call(Product("gemm", 4096, 4096, 4096))], "fp16")[0]
    expected = gemm_time(load_profile(A100), A100, 4096, 4096, 4096)
    assert found is not None
    assert found.seconds == pytest.approx(float(expected.time_s) - expected.launch_s)
    assert 0 < found.unquantized_s <= found.seconds


def test_a_call_keeps_its_place_among_calls_of_other_kinds() -> None:
    conv, small = Call(Product("conv", 1, 1, 1, convolution=PLAIN)), Call(Product("gemm", 64, 64, 64))
    unknown = Call(Product("attention", 1, 1, 1))  # without its lengths
    together = ON_V100.predict([small, unknown, conv], "fp32")
    assert together == [ON_V100.predict([small], "fp32")[0], None, ON_V100.predict([conv], "fp32")[0]]


def test_no_model_covers_double_precision() -> None:
    assert ON_A100.predict([Call(Product("gemm", 64, 64, 64))], "fp64") == [None]


@pytest.mark.parametrize("size", [1024, 4096])
def test_tf32_lies_between_fp16_and_fp32(size: int) -> None:
    call = [Call(Product("gemm", size, size, size))]
    half, tf32, single = (ON_A100.predict(call, precision)[0] for precision in ("fp16", "tf32", "fp32"))
    assert half is not None and tf32 is not None and single is not None
    assert half.seconds < tf32.seconds < single.seconds


@pytest.mark.parametrize("pass_", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_twice_the_images_take_longer_but_no_more_than_twice_and_a_bit(pass_: str, precision: str) -> None:
    times = []
    for batch in (64, 128):
        layer = Convolution(batch, 256, 28, 28, 256, 3, 3, pad_h=1, pad_w=1)
        product = Product("conv", 1, 1, 1, convolution=layer)
        found = ON_V100.predict([Call(product, pass_)], precision)[0]  # a pass
        assert found is not None
        times.append(found.seconds)
    assert 1.5 < times[1] / times[0] < 2.3


def test_attention_is_predicted_in_both_directions() -> None:
    sizes = {"batch": 8, "heads": 12, "q_len": 512, "kv_len": 512, "head_dim": 64, "value_dim": 64, "causal": 0}
    flops = 4 * 8 * 12 * 512 * 512 * 64
    forward = Product("attention", 512, 64, 512, attention=sizes, flops=flops)
    there, back = ON_A100.predict([Call(forward, "fprop"), Call(forward, "dgrad")], "fp16")
    assert there is not None and back is not None
    assert flops / there.seconds < 312e12  # the A100's dense peak
    assert back.seconds > there.seconds


def test_a_convolution_in_three_dimensions_is_taken_for_its_product() -> None:
    found = ON_A100.predict([Call(Product("conv", 4096, 256, 1728))], "fp16")[0]
    assert found is not None and found.model == "GEMM profile"


@pytest.mark.parametrize(
    "names, algorithm",
    [
        (["void cudnn::winograd_nonfused::winogradForwardData4x4<float, float>", "volta_sgemm_64x64_nn"], "winograd"),
        (["volta_scudnn_winograd_128x128_ldg1_ldg4_relu_tile148t_nt_v1"], "winograd fused"),
        (["void implicit_convolve_sgemm<float, float, 128, 6, 7>"], "implicit"),
        (["void fft2d_r2c_32x32<float>", "volta_gcgemm_64x32_nt"], None),
        ([], None),
    ],
)
def test_kernels_names_tell_the_algorithm(names: list[str], algorithm: str | None) -> None:
    assert algorithm_of(names) == algorithm


def test_the_class_of_a_kernel_tells_its_pass_before_the_operator() -> None:
    assert pass_of_group(group(class_="wgrad"), convolution(DOWN, "dgrad")) == "wgrad"
    assert pass_of_group(group(class_="conv"), convolution(DOWN, "dgrad")) == "dgrad"


# Tiles and waves ------------------------------------------------------------------------------------------------------


def test_a_wave_costs_between_its_share_and_a_whole_one() -> None:
    assert wave_cost(2.45, 0.5) == pytest.approx(0.5 * 3 + 0.5 * 2.45)
    assert wave_cost(0.25, 0.5) == 1.0


def test_one_column_too_many_costs_nearly_half_of_two_waves() -> None:
    # 2304 x 1537 in 256x128 tiles: 9 x 13 = 117 on 108 SMs; 1537 of 1664 columns are inside
    operation = linear(2304, 1537, 4096)
    kernel = group(tile_m=256, tile_n=128, grid=(9, 13, 1), total_s=10e-3)  # so long that its traffic is nothing
    hardness = ON_A100.gemm_hardness("fp16")
    lossless = 1537 / 1664 * (117 / 108) / (hardness * 2 + (1 - hardness) * 117 / 108)
    assert share(kernel, operation) == pytest.approx(1 - lossless, abs=1e-3)


def test_a_full_wave_of_whole_tiles_loses_nothing() -> None:
    assert share(group(tile_m=256, tile_n=128, grid=(9, 12, 1)), linear(2304, 1536, 4096)) == pytest.approx(0)


def test_a_kernel_whose_traffic_takes_all_its_time_is_not_billed() -> None:
    operation = linear(2304, 1537, 64)
    bytes_ = 2 * (2304 * 64 + 1537 * 64 + 2304 * 1537)
    traffic_s = ON_A100.traffic_s(bytes_, "gemm", "nchw")
    assert share(group(tile_m=256, tile_n=128, grid=(9, 13, 1), total_s=traffic_s), operation) == 0


@pytest.mark.parametrize("changes", [{"persistent": True, "grid": (108, 1, 1)}, {"split_k": True, "grid": (9, 13, 2)}])
def test_persistent_and_split_k_kernels_lose_their_tile_edges_alone(changes: dict[str, object]) -> None:
    kernel = group(tile_m=256, tile_n=128, total_s=10e-3, **changes)
    assert share(kernel, linear(2304, 1537, 4096)) == pytest.approx(1 - 1537 / 1664, abs=1e-3)


@pytest.mark.parametrize("changes", [{"class_": "elementwise"}, {"class_": "normalisation"}, {"helper": True}])
def test_kernels_bound_by_memory_are_never_billed_for_waves(changes: dict[str, object]) -> None:
    assert quantization_loss(group(**changes), linear(64, 64, 64), ON_A100) is None


def test_without_a_grid_the_models_own_cut_is_billed() -> None:
    product = linear(2304, 1537, 4096).product
    assert product is not None
    found = ON_A100.predict([Call(product)], "fp16")[0]
    assert found is not None
    lost = share(group(grid=None, ctas=None), linear(2304, 1537, 4096))
    assert lost == pytest.approx(1 - found.unquantized_s / found.seconds)


def test_without_shapes_waves_are_billed_as_an_upper_bound() -> None:
    found = quantization_loss(group(class_="fprop", grid=(109, 1, 1), operation=None), None, ON_A100)
    assert found is not None and found.upper_bound and found.tiling is None
    h = ON_A100.conv_hardness()
    lossless = (109 / 108) / (h * 2 + (1 - h) * 109 / 108)
    assert found.share == pytest.approx((1 - lossless) * (1e-3 - 2e-6) / 1e-3)


def test_an_engine_without_a_tile_in_its_name_is_read_by_its_grid() -> None:
    # recorded: dgrad_engine, grid (4, 7, 32), for dx of 256>1024 on 14x14: 196 pixels an image in 7 tiles of 32
    kernel = group(name="void cudnn::detail::dgrad_engine<float, 512, 6, 5, 3, 3, 3>", class_="dgrad", tile_m=None,
                   tile_n=None, grid=(4, 7, 32))  # fmt: skip
    tiling = read_tiling(kernel, convolution(Convolution(32, 256, 14, 14, 1024, 1, 1), "dgrad").product)
    assert tiling is not None and (tiling.tile_m, tiling.tile_n, tiling.from_grid) == (32, 64, True)
    assert tiling.efficiency == pytest.approx(196 / 224)


def test_winograds_products_are_cut_on_their_own() -> None:
    # recorded: volta_sgemm_64x64_nn, grid (8, 4, 36): 32 images of 4 x 4 tiles = 512 rows, 256 columns
    kernel = group(name="volta_sgemm_64x64_nn", class_="fprop", tile_m=64, tile_n=64, grid=(8, 4, 36))
    tiling = read_tiling(kernel, convolution(PLAIN).product)
    assert tiling is not None
    assert (tiling.m, tiling.n, tiling.ctas, tiling.efficiency) == (512, 256, 8 * 4 * 36, 1.0)


def test_ctas_past_the_edge_of_a_swizzled_grid_do_not_count() -> None:
    # recorded: 2048 x 742 in 128x128 by CUTLASS: 16 x 6 tiles, the 6 folded by 8 and padded: grid (128, 1, 1)
    tiling = read_tiling(group(grid=(128, 1, 1)), linear(2048, 742, 1113).product)
    assert tiling is not None and tiling.ctas == 96 and not tiling.split


def test_a_tile_that_does_not_give_the_grid_is_not_believed() -> None:
    assert read_tiling(group(grid=(7, 5, 1)), linear(2048, 742, 1113).product) is None


def test_batches_in_whole_waves_lie_below_and_above_the_traced_one() -> None:
    # recorded: 1024>256 1x1 on 14x14, batch 32, grid (98, 2, 1) in 64x128: 2.45 waves of 80 SMs. Two waves are 80
    # rows of tiles x 64 = 5120 pixels, 26 images of 196; three are 7680, 39 images.
    kernel = group(name="void implicit_convolve_sgemm<float, float, 128, 6, 7, 3, 3, 5, 1, false, false, true>",
                   class_="fprop", tile_m=None, tile_n=None, precision="fp32", grid=(98, 2, 1))  # fmt: skip
    operation = convolution(DOWN)
    loss = quantization_loss(kernel, operation, ON_V100)
    assert loss is not None and loss.waves_sms == pytest.approx(2.45) and operation.product is not None
    assert fuller_batches(loss, kernel, operation.product, 80) == (26, 39)
    for batch, waves in ((26, 2), (39, 3)):
        assert math.ceil(batch * 196 / 64) * 2 <= waves * 80 < math.ceil((batch + 1) * 196 / 64) * 2


def test_the_batch_sets_no_waves_in_a_weight_gradient() -> None:
    kernel = group(class_="wgrad", tile_m=128, tile_n=128, grid=(2, 8, 1))
    operation = convolution(DOWN, "wgrad")
    loss = quantization_loss(kernel, operation, ON_V100)
    assert loss is not None and operation.product is not None
    assert fuller_batches(loss, kernel, operation.product, 80) is None


@pytest.mark.parametrize("sizes", [(0, 64, 64), (64, 0, 64), (64, 64, 2**40)])
def test_empty_and_impossible_products_have_no_prediction_and_no_tiles(sizes: tuple[int, int, int]) -> None:
    assert ON_A100.predict([Call(Product("gemm", *sizes)), Call(Product("gemm", 64, 64, 64))], "fp16")[0] is None
    assert read_tiling(group(), Product("gemm", *sizes)) is None
    found = quantization_loss(group(), linear(*sizes), ON_A100)
    assert found is not None and found.upper_bound


@pytest.mark.parametrize("tile", [(0, 0), (10**30, 10**30)])
def test_a_tile_that_no_kernel_has_is_not_believed(tile: tuple[int, int]) -> None:
    kernel = group(tile_m=tile[0], tile_n=tile[1], tile=f"{tile[0]}x{tile[1]}")
    assert read_tiling(kernel, linear(4096, 4096, 64).product) is None


SIZES, SIDES = st.integers(1, 10_000), st.sampled_from([16, 32, 64, 128, 256])


@given(SIZES, SIZES, SIZES, SIDES, SIDES, st.integers(1, 4), st.floats(1e-6, 1e-2), st.booleans())
def test_no_kernel_loses_all_its_time_or_less_than_nothing(
    m: int, n: int, k: int, tile_m: int, tile_n: int, slices: int, time_s: float, persistent: bool
) -> None:
    grid = (-(-m // tile_m), -(-n // tile_n), slices)
    kernel = group(tile_m=tile_m, tile_n=tile_n, grid=grid, total_s=time_s, persistent=persistent)
    found = quantization_loss(kernel, linear(m, n, k), ON_A100)
    assert found is not None and 0 <= found.share < 1
    assert found.tiling is not None and 0 < found.tiling.efficiency <= 1


def test_a_matrix_times_a_vector_takes_its_traffic_and_no_tile() -> None:
    model = TimeModel(find_gpu("a100-sxm4-40gb"))
    row, tile = Product("gemm", 1, 512, 2048), Product("gemm", 32, 512, 2048)
    found, whole = model.predict([Call(row), Call(tile)], "fp32")
    # 1.05 M elements of 4 B at two thirds of 1555 GB/s: 4 us, beside 3 us for a kernel and the memory's first bytes
    assert found is not None and found.model == "matrix times vector"
    assert 3e-6 + 4.2e6 / 1555e9 < found.seconds < 3e-6 + 2 * 4.2e6 / 1555e9
    assert found.unquantized_s == found.seconds
    assert whole is not None and whole.model == "GEMM profile" and whole.seconds > found.seconds
