"""Groups of kernels, their residency and waves, against real traces and sums worked by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.kernel_names import parse_kernel_name
from advisor.profiling.kernels.device import DeviceFacts, traced_gpu
from advisor.profiling.kernels.groups import group_kernels, group_rows, occupancy_note
from advisor.profiling.kernels.waves import Cut, Launch, count_waves, read_cut
from advisor.profiling.linked import Links, StepSpans
from advisor.profiling.linking.link import link
from advisor.profiling.raw import RawTrace
from advisor.profiling.reading.reader import read_trace
from advisor.profiling.records import QUANTIZED, KernelGroup, Operation, Product
from advisor.profiling.steps.find import find_steps
from tests.data import recorded_trace
from tests.kineto import A100, KinetoTrace

RESNET = "resnet50_train_b32_fp32_v100.json.gz"
SAMPLED = "sampled_no_device_properties.json.gz"


@cache
def analysed(path: Path, gpu: str | None = None) -> tuple[RawTrace, Links, DeviceFacts, tuple[KernelGroup, ...]]:
    raw = read_trace(path)
    links = link(raw)
    device = traced_gpu(raw, gpu)
    return raw, links, device, group_kernels(raw, links, find_steps(raw, links), device)


def unlinked(raw: RawTrace, operations: tuple[Operation, ...] = (), operation: Sequence[int] | None = None) -> Links:
    none = np.full(raw.kernels.name.size, -1)
    return Links(none, none, none, none, none if operation is None else np.array(operation), operations)


def no_steps(raw: RawTrace) -> StepSpans:
    return StepSpans(
        "none", (), np.empty(0), np.empty(0), np.full(raw.kernels.name.size, -1), np.empty(0, np.int64), ()
    )


def grouped(trace: KinetoTrace, path: Path, **linked: Any) -> tuple[KernelGroup, ...]:
    raw = read_trace(trace.write(path / "trace.json"))
    return group_kernels(raw, unlinked(raw, **linked), no_steps(raw), traced_gpu(raw))


def test_the_totals_of_the_groups_are_the_kernel_time_of_the_trace() -> None:
    raw, _, _, groups = analysed(recorded_trace(RESNET))
    assert sum(group.count for group in groups) == 8868
    assert sum(round(group.total_s * 1e6) for group in groups) == 594_868
    assert sum(group.share for group in groups) == pytest.approx(1)
    assert [group.total_s for group in groups] == sorted((group.total_s for group in groups), reverse=True)
    assert raw.kernels.duration_us.sum() == 594_868


def test_no_kernel_of_the_fp32_trace_ran_on_tensor_cores() -> None:
    _, _, _, groups = analysed(recorded_trace(RESNET))
    assert {group.tensor_cores for group in groups} == {False}
    products = [group for group in groups if group.class_ in QUANTIZED and not group.helper]
    assert {group.precision for group in products} == {"fp32"}


# V100: 80 SMs of 64 warps, 32 blocks, four register files of 16384, 96 KiB of shared memory in steps of 256 B.
# Registers of a warp: 32 x registers per thread, up to a multiple of 256. Waves: CTAs / (80 x resident).
# name, grid, block, registers, shared bytes; resident CTAs, what limits them; waves, idle share over slots, over SMs
HAND_CHECKED = [
    # 16 warps a block. Threads: 64 / 16 = 4. Registers: 1024 a warp, 16 to a file, 64 to the SM, 4 blocks.
    # 320 slots: 256 / 320 = 0.8, so 64 idle. 256 = 3 x 80 + 16 over SMs: 64 of 80 idle in the fourth round.
    ("cudnn::bn_bw_1C11_kernel_new", (256, 1, 1), (512, 1, 1), 32, 400, 4, "threads", 0.8, 64 / 320, 64 / 80),
    # 2 warps. Registers: 88 x 32 = 2816 = 11 x 256, 5 warps to a file, 20 to the SM, 10 blocks. Shared: 29 blocks.
    # 800 slots: 896 / 800 = 1.12, the second wave holds 96. 896 = 11 x 80 + 16.
    ("cudnn::detail::dgrad_engine", (4, 7, 32), (8, 8, 1), 88, 3328, 10, "registers", 1.12, 704 / 800, 64 / 80),
    # 8 warps. Registers: 2048 a warp, 8 to a file, 32 to the SM, 4 blocks. Shared: 98304 / 6400 = 15.
    # 320 slots: 784 / 320 = 2.45, the third wave holds 144. 784 = 9 x 80 + 64.
    ("implicit_convolve_sgemm", (98, 8, 1), (8, 32, 1), 64, 6400, 4, "registers", 2.45, 176 / 320, 16 / 80),
    # 8 warps. Registers: 4096 a warp, 4 to a file, 16 to the SM, 2 blocks. Shared: 98304 / 32768 = 3.
    # 160 slots: 224 / 160 = 1.4, the second wave holds 64. 224 = 2 x 80 + 64.
    ("stridedB_splitK_medium", (2, 8, 14), (256, 1, 1), 128, 32768, 2, "registers", 1.4, 96 / 160, 16 / 80),
    # 8 warps. Registers: 2560 a warp, 6 to a file, 24 to the SM, 3 blocks. Shared: 98304 / 6400 = 15.
    # 240 slots: 448 / 240 = 1.867, the second wave holds 208. 448 = 5 x 80 + 48.
    ("wgrad_alg0_engine", (1, 2, 224), (8, 32, 1), 80, 6400, 3, "registers", 448 / 240, 32 / 240, 32 / 80),
    # 4 warps. Registers: 4096 a warp, 4 to a file, 16 to the SM, 4 blocks. Shared: 98304 / 16384 = 6.
    # 320 slots: 3136 / 320 = 9.8, the tenth wave holds 256. 3136 = 39 x 80 + 16.
    ("128x64_relu_interior", (784, 4, 1), (128, 1, 1), 128, 16384, 4, "registers", 9.8, 64 / 320, 64 / 80),
    # 4 warps. Shared: 98304 / 32768 = 3, one less than registers allow (16 warps, 4 blocks).
    # 240 slots: 784 / 240 = 3.267, the fourth wave holds 64. 784 = 9 x 80 + 64.
    ("64_stridedB_interior", (784, 1, 1), (128, 1, 1), 128, 32768, 3, "shared memory", 784 / 240, 176 / 240, 16 / 80),
    # 8 warps. Registers: 126 x 32 = 4032, up to 4096, 2 blocks. Shared: 98304 / 49152 = 2, a tie.
    # 160 slots: 1792 / 160 = 11.2, the twelfth wave holds 32. 1792 = 22 x 80 + 32.
    ("scudnn_winograd_128x128", (64, 7, 4), (256, 1, 1), 126, 49152, 2, "registers", 11.2, 128 / 160, 48 / 80),
    # 2 warps. Threads: 64 / 2 = 32, as many as blocks may be; threads named first. Registers: 640 a warp allow 50.
    # 2560 slots: 100352 / 2560 = 39.2, the last wave holds 512. 100352 = 1254 x 80 + 32.
    ("AddFunctor<float>", (100352, 1, 1), (64, 1, 1), 20, 0, 32, "threads", 39.2, 2048 / 2560, 48 / 80),
    # 16 warps. Registers: 38 x 32 = 1216, up to 1280, 12 to a file, 48 to the SM, 3 blocks. Shared: 3 of 26880 B.
    # 240 slots: 256 / 240 = 1.067, the second wave holds 16. 256 = 3 x 80 + 16.
    ("bn_fw_tr_1C11_singleread", (256, 1, 1), (512, 1, 1), 38, 26768, 3, "registers", 256 / 240, 224 / 240, 64 / 80),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "grid", "block", "registers", "shared", "resident", "limiter", "waves", "idle", "idle_sms"), HAND_CHECKED
)
def test_waves_of_ten_kernels_are_those_worked_by_hand(
    name: str,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    registers: int,
    shared: int,
    resident: int,
    limiter: str,
    waves: float,
    idle: float,
    idle_sms: float,
) -> None:
    _, _, _, groups = analysed(recorded_trace(RESNET))
    wanted = (grid, block, registers, shared)
    found = [g for g in groups if name in g.name and (g.grid, g.block, g.registers, g.shared_bytes) == wanted]
    assert found
    for group in found:
        assert (group.ctas_per_sm, group.limiter) == (resident, limiter)
        assert group.waves == pytest.approx(waves)
        assert group.idle_share == pytest.approx(idle)
        assert group.idle_share_sms == pytest.approx(idle_sms)
        assert group.wave_efficiency == pytest.approx(waves / np.ceil(waves))


@pytest.mark.parametrize(
    ("trace", "gpu", "judged", "silent"),
    [
        (RESNET, None, 8868, 0),
        ("alexnet_a100.json.gz", None, 73, 6),
        ("triton_kernel_a100.json.gz", None, 1, 0),
        (SAMPLED, "a100-sxm4-40gb", 864, 290),
    ],
)
def test_residency_agrees_with_the_traces_own_occupancy_wherever_it_has_one(
    trace: str, gpu: str | None, judged: int, silent: int
) -> None:
    """Kineto writes 0 for the silent ones: its calculator does not opt in to more than 48 KiB of shared memory."""
    _, _, _, groups = analysed(recorded_trace(trace), gpu)
    counts: Counter[bool | None] = Counter()
    for group in groups:
        counts[group.occupancy_agrees] += group.count
    assert counts == Counter({True: judged, None: silent})
    assert all((group.shared_bytes or 0) > 48 * 1024 for group in groups if group.occupancy_agrees is None)
    note = occupancy_note(groups)
    assert note is not None
    assert note.startswith(f"resident CTAs agree with the trace's own occupancy for {judged} of {judged} kernels")


def test_every_grid_of_a_printed_tile_covers_its_product() -> None:
    """Tile, product and grid fit together in every group, or the kernel says why not."""
    for trace, gpu in ((RESNET, None), (SAMPLED, "a100-sxm4-40gb")):
        _, links, device, groups = analysed(recorded_trace(trace), gpu)
        judged = 0
        for group in groups:
            product = links.operations[group.operation].product if group.operation is not None else None
            if group.tile is None or product is None or group.tile_m is None:
                continue
            cut = read_cut(
                parse_kernel_name(group.name), product, Launch(group.grid, group.ctas_per_sm, device.sms), reduced=False
            )
            assert cut.tiles is not None
            assert group.ctas is not None
            assert group.ctas >= cut.tiles
            assert group.split_k or "have no tile" in (group.note or "") or group.ctas == cut.tiles
            judged += 1
        assert judged > 20


def test_pixels_run_along_the_first_number_of_a_cudnn_tile() -> None:
    """784 CTAs for 32 x 56 x 56 pixels by 64 channels, tile 128x64: 784 x 1, else 1568."""
    _, links, _, groups = analysed(recorded_trace(RESNET))
    found = [
        group for group in groups
        if "128x64_stridedB_interior" in group.name and group.grid == (784, 1, 1) and group.operation is not None
        and links.operations[group.operation].product is not None
    ]  # fmt: skip
    assert found
    assert {(group.tile_m, group.tile_n) for group in found} == {(128, 64)}


def test_tf32_kernels_are_tensor_core_kernels() -> None:
    _, _, _, groups = analysed(recorded_trace(SAMPLED), "a100-sxm4-40gb")
    tf32 = [group for group in groups if "s1688gemm" in group.name]
    assert {(group.tensor_cores, group.precision, group.class_) for group in tf32} == {(True, "tf32", "gemm")}
    plain = [group for group in groups if "ampere_sgemm" in group.name]
    assert {(group.tensor_cores, group.precision) for group in plain} == {(False, "fp32")}


def test_communication_is_never_blamed_for_its_waves() -> None:
    _, _, _, groups = analysed(recorded_trace(SAMPLED), "a100-sxm4-40gb")
    nccl = [group for group in groups if group.class_ == "communication"]
    assert sum(group.total_s for group in nccl) == pytest.approx(0.396199)
    assert all(group.persistent and group.wave_efficiency is None and group.idle_share is None for group in nccl)


def test_without_a_named_gpu_waves_over_sms_are_still_counted() -> None:
    _, _, _, groups = analysed(recorded_trace(SAMPLED))
    assert all(group.waves is None and group.ctas_per_sm is None and group.occupancy_agrees is None for group in groups)
    assert all(group.wave_efficiency_sms is not None for group in groups if group.class_ != "communication")
    assert occupancy_note(groups) is None


def test_helpers_of_a_convolution_are_of_its_pass_and_marked() -> None:
    _, _, _, groups = analysed(recorded_trace(RESNET))
    helpers = [group for group in groups if group.helper]
    assert {group.class_ for group in helpers} == {"fprop", "dgrad", "wgrad", "gemm"}
    assert all(group.tile_m is None and group.note is None for group in helpers)


def test_regular_steps_give_launches_and_seconds_per_step() -> None:
    raw, links, _, groups = analysed(recorded_trace(RESNET))
    regular = find_steps(raw, links).regular
    inside = np.isin(find_steps(raw, links).kernel_step, regular)
    assert sum(group.step_s or 0 for group in groups) == pytest.approx(
        raw.kernels.duration_us[inside].sum() * 1e-6 / len(regular)
    )
    assert sum(group.launches_per_step or 0 for group in groups) == pytest.approx(inside.sum() / len(regular))


def test_kernels_of_one_shape_and_operation_are_one_group(tmp_path: Path) -> None:
    trace = KinetoTrace(A100)
    for start, duration, grid in ((0, 30, 216), (100, 10, 216), (200, 20, 216), (300, 50, 108)):
        trace.kernel("ampere_sgemm_128x64_nn", start, duration, grid=(grid, 1, 1), registers=122, shared=16384)
    trace.kernel("ampere_sgemm_128x64_nn", 400, 5, grid=(216, 1, 1), registers=122, shared=16384)
    operations = (Operation("aten::mm", "aten::mm", "forward", (), (), (), None, "mm"),)
    groups = grouped(trace, tmp_path, operations=operations, operation=[-1, -1, -1, -1, 0])
    assert [(group.count, round(group.total_s * 1e6), group.operation) for group in groups] == [
        (3, 60, None), (1, 50, None), (1, 5, 0)
    ]  # fmt: skip
    assert groups[0].median_s == pytest.approx(20e-6)
    assert groups[0].share == pytest.approx(60 / 115)
    assert (groups[0].launches_per_step, groups[0].step_s) == (None, None)


def test_an_occupancy_that_contradicts_ours_is_told(tmp_path: Path) -> None:
    """256 threads of 64 registers: 2048 a warp, 8 to a file, 4 CTAs of 8 warps: half of the threads, not a quarter."""
    trace = KinetoTrace(A100)
    for start, percent in ((0, 50), (100, 51), (200, 25)):
        trace.kernel("k", start, 10, grid=(1080, 1, 1), block=(256, 1, 1), registers=64, occupancy=percent)
        trace.events[-1]["name"] = f"kernel {percent}"
    groups = grouped(trace, tmp_path)
    assert {group.name: group.occupancy_agrees for group in groups} == {
        "kernel 50": True, "kernel 51": True, "kernel 25": False,
    }  # fmt: skip
    assert occupancy_note(groups) == "resident CTAs agree with the trace's own occupancy for 2 of 3 kernels"


@pytest.mark.parametrize("grid", [(0, 1, 1), (2**31 - 1, 65535, 65535)])
def test_a_senseless_grid_has_no_waves(tmp_path: Path, grid: tuple[int, int, int]) -> None:
    trace = KinetoTrace(A100)
    trace.kernel("ampere_sgemm_128x64_nn", 0, 10, grid=grid)
    (group,) = grouped(trace, tmp_path)
    assert (group.ctas, group.waves, group.wave_efficiency_sms) == (None, None, None)


def test_a_kernel_too_large_for_the_gpu_says_so(tmp_path: Path) -> None:
    trace = KinetoTrace(A100)
    trace.kernel("ampere_sgemm_128x64_nn", 0, 10, grid=(108, 1, 1), shared=200_000)
    (group,) = grouped(trace, tmp_path)
    assert (group.ctas_per_sm, group.waves) == (0, None)
    assert group.note is not None
    assert "is it the traced one?" in group.note


@pytest.mark.parametrize(
    ("name", "dtype", "arithmetic"),
    [
        ("triton_tem_fused_mm_0", "bf16", (None, "bf16")),  # whether it multiplies on Tensor Cores is not told
        ("triton_tem_fused_mm_0", "fp32", (None, None)),  # plain or TF32: not told
        ("void cutlass::Kernel2<cutlass::gemm::kernel::Gemm<cutlass::gemm::GemmShape<64, 64, 32>, MmaTensorOp>", "fp32",
         (True, "tf32")),  # FP32 operands on Tensor Cores of compute capability 8.0
        ("void gemmSN_TN_kernel<__half, 128, 16, 2, 4>(x)", "fp16", (False, "fp16")),
    ],
)  # fmt: skip
def test_the_operator_decides_the_precision_only_where_it_is_certain(
    tmp_path: Path, name: str, dtype: str, arithmetic: tuple[bool | None, str | None]
) -> None:
    trace = KinetoTrace(A100)
    trace.kernel(name, 0, 10, grid=(64, 1, 1))
    product = Product("gemm", 512, 512, 512, dtype=dtype)
    operations = (Operation("aten::mm", "aten::mm", "forward", (), (), (), product, "mm"),)
    (group,) = grouped(trace, tmp_path, operations=operations, operation=[0])
    assert (group.tensor_cores, group.precision) == arithmetic


def cut_of(name: str, product: Product | None, grid: tuple[int, int, int], *, resident: int = 1, sms: int = 132) -> Cut:
    return read_cut(parse_kernel_name(name), product, Launch(grid, resident, sms), reduced=False)


def test_a_persistent_kernel_is_known_by_fewer_ctas_than_tiles_and_its_rounds_are_counted() -> None:
    """4096 x 4096 in tiles of 128x256 is 16 x 32 = 512; 132 CTAs take 3.88 rounds, 16 of the last idle."""
    cut = cut_of("nvjet_tst_256x128_64x4_1x2_h_bz_coopA_TNT", Product("gemm", 4096, 4096, 4096), (2, 66, 1))
    assert (cut.persistent, cut.tiles, cut.tile_m, cut.tile_n) == (True, 512, 128, 256)
    assert cut.note == ("persistent: 512 tiles on 132 CTAs, 4 rounds, the last 88 % full; one launched wave by design")
    waves = count_waves(Launch((2, 66, 1), 1, 132), cut)
    assert waves.waves == pytest.approx(512 / 132)
    assert waves.idle_share == pytest.approx(16 / 132)


def test_a_persistent_kernel_without_a_product_is_not_blamed() -> None:
    name = (
        "cutlass3x_sm90_tensorop_s64x256x16gemm_f16_f16_f32_void_f32_128x256x64_2x1x1_0_ttt_align8_warpspecialized_"
        "cooperative"
    )
    launch = Launch((132, 1, 1), 1, 132)
    cut = cut_of(name, None, (132, 1, 1))
    assert (cut.persistent, cut.note) == (True, "persistent: one wave by design")
    waves = count_waves(launch, cut)
    assert (waves.waves, waves.wave_efficiency, waves.idle_share) == (1.0, None, None)


def test_a_small_plain_grid_is_not_taken_for_a_persistent_one() -> None:
    cut = cut_of("ampere_sgemm_128x64_nn", Product("gemm", 128, 128, 64), (1, 2, 1), sms=108)
    assert (cut.persistent, cut.tiles, cut.note) == (False, 2, None)


def test_slices_on_the_third_axis_are_a_split_k() -> None:
    """x[2048, 2400] w[256, 2400]^T in 128x128: 16 x 2 tiles, as 32 x 1 (swizzled by 2), three times."""
    cut = cut_of("cutlass_80_tensorop_s1688gemm_128x128_32x5_tn_align4", Product("gemm", 2048, 256, 2400), (32, 1, 3))
    assert (cut.tiles, cut.split_k) == (32, True)
    assert cut.note == "split-K: 3 CTAs share each tile's contraction, to fill the GPU"


def test_the_third_axis_of_a_batched_product_is_its_batch() -> None:
    product = Product("bmm", 160, 7, 72, batch=2048)
    cut = cut_of("cutlass_80_tensorop_s1688gemm_64x64_32x4_nt_align1", product, (3, 1, 2048), sms=108)
    assert (cut.tiles, cut.split_k, cut.note) == (6144, None, None)


def test_ctas_that_a_swizzled_grid_adds_are_told() -> None:
    """2048 x 1120 in 128x128: 16 x 9 tiles, swizzled by 8 to 128 x 2 CTAs: 112 have no tile."""
    cut = cut_of("cutlass_80_tensorop_s1688gemm_128x128_16x5_tn_align4", Product("gemm", 2048, 1120, 256), (128, 2, 1))
    assert (cut.tiles, cut.split_k) == (144, None)
    assert cut.note == "112 of 256 CTAs have no tile: the grid is rounded up"


def test_the_ctas_refute_a_librarys_habit() -> None:
    """A row-major kernel: 4096 x 60 in 64x128 is 64 x 1 tiles; in cuBLAS's reading, 128x64, it would be 32 x 1."""
    name = "cutlass_80_tensorop_f16_s16816gemm_f16_64x128_32x4_tn_align8"
    cut = cut_of(name, Product("gemm", 4096, 60, 64), (64, 1, 1))
    assert (cut.tile_m, cut.tile_n, cut.tiles, cut.note) == (64, 128, 64, None)


def test_a_winograd_tile_is_not_the_convolutions() -> None:
    product = Product("conv", 100352, 64, 576, pass_="fprop")
    for name in ("volta_sgemm_64x64_nn", "volta_scudnn_winograd_128x128_ldg1_ldg4_relu_tile148t_nt_v1"):
        cut = cut_of(name, product, (8, 4, 36), sms=80)
        assert (cut.tile_m, cut.tiles) == (None, None)
        assert cut.note is not None


sizes = st.integers(1, 5000)


@given(grid=st.tuples(sizes, sizes, st.integers(1, 64)), resident=st.integers(0, 32), sms=st.integers(1, 200))
def test_idle_shares_and_efficiencies_are_shares_and_agree(grid: tuple[int, int, int], resident: int, sms: int) -> None:
    found = count_waves(Launch(grid, resident, sms), Cut())
    assert found.wave_efficiency_sms is not None
    assert found.idle_share_sms is not None
    assert 0 < found.wave_efficiency_sms <= 1
    assert 0 <= found.idle_share_sms < 1
    if resident == 0:
        assert (found.waves, found.wave_efficiency, found.idle_share) == (None, None, None)
        return
    assert found.waves is not None
    assert found.idle_share is not None
    whole = np.ceil(found.waves)
    assert found.wave_efficiency == pytest.approx(found.waves / whole)
    assert found.idle_share == pytest.approx(whole - found.waves)  # all idle slots are in the last wave


def test_records_hold_plain_values() -> None:
    _, _, _, groups = analysed(recorded_trace(RESNET))
    plain = (str, int, float, bool, tuple, type(None))
    assert {type(value) for group in groups for value in vars(group).values()} <= set(plain)


columns = st.integers(1, 40).flatmap(
    lambda rows: st.lists(
        st.lists(st.integers(-1, 3) | st.integers(-(2**62), 2**62), min_size=rows, max_size=rows),
        min_size=1,
        max_size=9,
    )
)


@given(columns)
def test_rows_are_numbered_as_a_dictionary_would(values: list[list[int]]) -> None:
    group, first = group_rows([np.array(column, dtype=np.int64) for column in values])
    rows = list(zip(*values, strict=True))
    assert len(first) == len(set(rows))
    assert all(rows[first[number]] == row for number, row in zip(group, rows, strict=True))
    assert all(rows.index(rows[index]) == index for index in first)
