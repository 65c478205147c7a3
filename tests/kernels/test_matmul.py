from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import triton

import kernels.matmul
from kernels.matmul import (
    LAYOUTS,
    MatmulConfig,
    descriptor_fits,
    matmul,
    matmul_ctas,
    matmul_reference,
    matmul_spec,
    prepare_matmul,
)

PLAIN = MatmulConfig(32, 16, 32, stages=2, warps=4)
SPLIT = MatmulConfig(32, 16, 32, stages=2, warps=4, split_k=3)
PERSISTENT = MatmulConfig(32, 16, 32, stages=2, warps=4, group_m=2, variant="persistent", ctas_per_sm=2)
PERSISTENT_SPLIT = MatmulConfig(16, 32, 16, stages=2, warps=4, split_k=2, variant="persistent")
DESCRIPTOR = MatmulConfig(32, 32, 32, stages=2, warps=4, group_m=3, variant="descriptor")
SUBTILE = MatmulConfig(32, 32, 32, stages=2, warps=4, variant="descriptor", subtile=True)
DESCRIPTOR_SPLIT = MatmulConfig(32, 32, 32, stages=2, warps=4, split_k=3, variant="descriptor", subtile=True)
POINTERS = (PLAIN, SPLIT, PERSISTENT, PERSISTENT_SPLIT)
DESCRIPTORS = (DESCRIPTOR, SUBTILE, DESCRIPTOR_SPLIT)
# half a unit in the last place is the worst rounding of one element; over many the root mean square is about half of it
TOLERANCE = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def matrix(rows: int, cols: int, layout: str, device: str, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    """Random, inside a larger NaN-filled block, so that a read beyond an edge shows in the product."""
    shape = (rows, cols) if layout == "n" else (cols, rows)
    block = torch.full((shape[0] + 40, -(-shape[1] // 8) * 8 + 40), float("nan"), dtype=dtype)
    block[: shape[0], : shape[1]] = torch.from_numpy(np.random.default_rng(rows * 31 + cols).standard_normal(shape))
    inner = block.to(device)[: shape[0], : shape[1]]
    return inner if layout == "n" else inner.T


def tight(rows: int, cols: int, layout: str, device: str) -> torch.Tensor:
    """Contiguous, so an odd contiguous size makes an odd stride."""
    x = matrix(rows, cols, layout, device)
    return x.contiguous() if layout == "n" else x.T.contiguous().T


def relative_error(got: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> float:
    wanted = a.double() @ b.double()
    return float((got.double() - wanted).norm() / wanted.norm())


def poisoned(m: int, n: int, device: str, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.full((m, n), float("nan"), dtype=dtype, device=device)


def compute_capability(device: str) -> tuple[int, int]:
    return torch.cuda.get_device_capability() if device == "cuda" else (9, 0)


@pytest.mark.parametrize("config", POINTERS, ids=str)
@pytest.mark.parametrize("m, n, k", [(1, 1, 1), (3, 3, 3), (33, 17, 33), (64, 32, 96), (1, 257, 40), (70, 8, 257)])
def test_awkward_sizes_match_float64(config: MatmulConfig, m: int, n: int, k: int, device: str) -> None:
    a, b, out = tight(m, k, "n", device), tight(k, n, "n", device), poisoned(m, n, device)
    assert matmul(a, b, config=config, out=out) is out
    assert relative_error(out, a, b) < TOLERANCE[torch.float16]


@pytest.mark.parametrize("config", POINTERS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("make", [matrix, tight])
def test_four_layouts_match_float64_and_read_nothing_beyond_the_edge(
    config: MatmulConfig, layout: str, make: Callable[..., torch.Tensor], device: str
) -> None:
    a, b = make(41, 50, layout[0], device), make(50, 37, layout[1], device)
    assert relative_error(matmul(a, b, config=config), a, b) < TOLERANCE[torch.float16]


@pytest.mark.parametrize("config", DESCRIPTORS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("m, n, k", [(40, 48, 72), (33, 37, 70)])  # 37: rows of C that no descriptor can address
def test_descriptors_match_float64_in_four_layouts(
    config: MatmulConfig, layout: str, m: int, n: int, k: int, device: str
) -> None:
    if compute_capability(device) < (9, 0):
        pytest.skip("this GPU has no tensor descriptors")
    a, b, out = matrix(m, k, layout[0], device), matrix(k, n, layout[1], device), poisoned(m, n, device)
    assert relative_error(matmul(a, b, config=config, out=out), a, b) < TOLERANCE[torch.float16]


@pytest.mark.parametrize("config", (PLAIN, SPLIT, SUBTILE), ids=str)
def test_bf16_matches_float64(config: MatmulConfig, device: str) -> None:
    if device == "cuda" and config is SUBTILE and compute_capability(device) < (9, 0):
        pytest.skip("not on this GPU")
    a, b = matrix(40, 72, "n", device, torch.bfloat16), matrix(72, 48, "t", device, torch.bfloat16)
    got = matmul(a, b, config=config)
    assert got.dtype == torch.bfloat16
    assert relative_error(got, a, b) < TOLERANCE[torch.bfloat16]


def test_sums_are_kept_in_fp32(device: str) -> None:
    # 4096 ones: FP16 cannot count past 2048 in steps of one
    a, b = torch.ones(16, 4096, device=device).half(), torch.ones(4096, 16, device=device).half()
    for config in (MatmulConfig(16, 16, 256, stages=2, warps=4), MatmulConfig(16, 16, 256, 2, 4, split_k=4)):
        assert (matmul(a, b, config=config) == 4096).all()


def test_split_k_gives_the_same_bits_each_time(device: str) -> None:
    a, b = matrix(40, 200, "n", device), matrix(200, 24, "n", device)
    launch = prepare_matmul(a, b, config=SPLIT)
    first = launch().clone()
    assert all(torch.equal(launch(), first) for _ in range(3))


def test_more_splits_than_steps_of_k_leave_zeros_not_garbage(device: str) -> None:
    a, b = matrix(20, 32, "n", device), matrix(32, 20, "n", device)
    config = MatmulConfig(32, 32, 16, stages=2, warps=4, split_k=8)  # two steps of K
    assert relative_error(matmul(a, b, config=config), a, b) < TOLERANCE[torch.float16]


def test_out_may_be_part_of_a_larger_matrix_and_nothing_else_is_written(device: str) -> None:
    a, b, whole = matrix(33, 40, "n", device), matrix(40, 19, "n", device), poisoned(50, 60, device)
    for config in (PLAIN, SPLIT):
        whole.fill_(float("nan"))
        matmul(a, b, config=config, out=whole[5:38, 7:26])
        assert relative_error(whole[5:38, 7:26], a, b) < TOLERANCE[torch.float16]
        assert int(whole.isnan().sum()) == 50 * 60 - 33 * 19


def test_a_first_element_off_16_bytes_is_right_too(device: str) -> None:
    a, b = matrix(40, 80, "n", device)[:, 1:73], matrix(72, 48, "n", device)
    assert relative_error(matmul(a, b, config=PLAIN), a, b) < TOLERANCE[torch.float16]
    assert not descriptor_fits(a, b)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, of infinity minus infinity
def test_an_infinite_operand_stays_in_its_own_row(device: str) -> None:
    a, b = matrix(33, 40, "n", device).clone(), matrix(40, 17, "n", device)
    a[32] = float("inf")
    got = matmul(a, b, config=PLAIN)
    assert torch.isfinite(got[:32]).all()
    assert not torch.isfinite(got[32]).any()


@pytest.mark.parametrize("m, n, k", [(0, 8, 8), (8, 0, 8), (0, 0, 0)])
def test_an_empty_product_is_empty(m: int, n: int, k: int, device: str) -> None:
    got = matmul(torch.empty(m, k, device=device).half(), torch.empty(k, n, device=device).half())
    assert got.shape == (m, n)


def test_a_sum_over_nothing_is_zero(device: str) -> None:
    out = poisoned(5, 7, device)
    matmul(torch.empty(5, 0, device=device).half(), torch.empty(0, 7, device=device).half(), out=out)
    assert (out == 0).all()


@pytest.mark.parametrize("k", [40, 37], ids=["aligned", "odd"])
@pytest.mark.parametrize("capability", [None, (7, 5), (8, 0), (9, 0), (10, 0), (12, 0)], ids=str)
def test_without_a_config_each_architecture_runs_one_that_can_read_the_operands(
    capability: tuple[int, int] | None, k: int, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    if device == "cuda":
        pytest.skip("other architectures are pretended on the interpreter only")
    monkeypatch.setattr("kernels.matmul._capability", lambda device: capability)
    kernels.matmul._default_config.cache_clear()
    a, b = tight(40, k, "n", device), tight(k, 24, "t", device)
    assert relative_error(matmul(a, b), a, b) < TOLERANCE[torch.float16]
    kernels.matmul._default_config.cache_clear()


def test_the_reference_rounds_once() -> None:
    a, b = matrix(9, 300, "n", "cpu"), matrix(300, 5, "n", "cpu")
    assert relative_error(matmul_reference(a, b), a, b) < TOLERANCE[torch.float16]


def test_ctas_are_tiles_times_splits_and_persistent_ones_at_most_the_sms() -> None:
    # 2304 x 1537 in 256 x 128: 9 x 13 tiles
    config = MatmulConfig(256, 128, 64, stages=3, warps=8)
    assert matmul_ctas(2304, 1537, config, sms=108) == 117
    assert matmul_ctas(2304, 1537, MatmulConfig(256, 128, 64, 3, 8, split_k=2), sms=108) == 234
    assert matmul_ctas(2304, 1537, MatmulConfig(256, 128, 64, 3, 8, variant="persistent"), sms=108) == 108
    assert matmul_ctas(256, 256, MatmulConfig(256, 128, 64, 3, 8, variant="persistent"), sms=108) == 2
    two = MatmulConfig(256, 128, 64, 3, 8, variant="descriptor", ctas_per_sm=2)
    assert matmul_ctas(2304, 1537, two, sms=50) == 100


def fp16(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float16)


@pytest.mark.parametrize(
    "a, b, out, says",
    [
        (fp16(4, 5), fp16(4, 5), None, r"\[M,K\] and \[K,N\]"),
        (fp16(4), fp16(4, 5), None, r"\[M,K\] and \[K,N\]"),
        (fp16(4, 5), fp16(5, 4).bfloat16(), None, "both must be"),
        (fp16(4, 5).float(), fp16(5, 4).float(), None, "torch.float32"),
        (fp16(8, 8)[::2, ::2], fp16(4, 4), None, "one of them must be 1"),
        (fp16(4, 5), fp16(5, 4), fp16(4, 5), "make it"),
        (fp16(4, 5), fp16(5, 4), fp16(4, 4).float(), "make it"),
        (fp16(4, 5), fp16(5, 4), fp16(4, 4).T[:, :], "rows must be contiguous"),
        (fp16(4, 5), fp16(5, 4), fp16(4, 4).to("meta"), "on meta"),
        (fp16(4, 5).to("meta"), fp16(5, 4), None, "a is on meta"),
    ],
)
def test_what_cannot_be_multiplied_is_said_in_one_line(
    a: torch.Tensor, b: torch.Tensor, out: torch.Tensor | None, says: str, device: str
) -> None:
    a, b = (x if x.is_meta else x.to(device) for x in (a, b))
    if out is not None and not out.is_meta:
        out = out.to(device)
    with pytest.raises(ValueError, match=says) as error:
        matmul(a, b, out=out)
    assert "\n" not in str(error.value)


def test_descriptors_on_odd_strides_are_refused(device: str) -> None:
    with pytest.raises(ValueError, match="multiples of 16 bytes"):
        matmul(tight(8, 9, "n", device), tight(9, 8, "n", device), config=DESCRIPTOR)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"tile_m": 48}, "tile_m is 48"),
        ({"tile_k": 8}, "tile_k is 8"),
        ({"warps": 3}, "warps is 3"),
        ({"split_k": 0}, "split_k is 0"),
        ({"variant": "stream"}, "unknown variant 'stream'"),
        ({"subtile": True}, "for variant 'descriptor'"),
        ({"ctas_per_sm": 2}, "a plain kernel fills every SM"),
    ],
)
def test_an_impossible_config_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MatmulConfig(**{"tile_m": 64, "tile_n": 64, "tile_k": 32, "stages": 2, "warps": 4, **change})


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"config": PLAIN, "dtype": "fp32"}, "unknown type 'fp32'"),
        ({"config": PLAIN, "layout": "nhwc"}, "unknown layout 'nhwc'"),
        ({"config": DESCRIPTOR, "aligned": False}, "aligned"),
        ({"config": DESCRIPTOR, "capability": (8, 0)}, "need compute capability 9.0"),
        ({"config": MatmulConfig(64, 64, 64, 2, 4, variant="descriptor", warp_specialize=True)}, "from compute capab"),
    ],
)
def test_a_spec_of_what_no_gpu_runs_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        matmul_spec(**arguments)


def test_without_the_interpreter_cpu_tensors_are_refused(compiled: Callable[[str], Any]) -> None:
    answer = compiled("""
import torch
import triton
from kernels.matmul import matmul
try:
    matmul(torch.ones(4, 4).half(), torch.ones(4, 4).half())
    answer = "ran"
except ValueError as error:
    answer = str(error)
""")
    assert "a is on cpu" in answer
    assert "TRITON_INTERPRET=1" in answer


@pytest.fixture(scope="module")
def ptx(compiled: Callable[[str], Any]) -> dict[str, str]:
    """PTX and number of loops of some kernels, by name."""
    answer: dict[str, str] = compiled("""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kernels.matmul import MatmulConfig, matmul_spec

def ptx(capability, config, **options):
    spec = matmul_spec(config, capability=capability, **options)
    names = spec.function.arg_names
    source = ASTSource(
        spec.function, dict(spec.signature), constexprs=dict(spec.constants),
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in spec.divisible_by_16},
    )
    target = GPUTarget("cuda", capability[0] * 10 + capability[1], 32)
    options = {"num_warps": spec.warps, "num_stages": spec.stages}
    return triton.compile(source, target=target, options=options).asm["ptx"]

small = MatmulConfig(64, 64, 32, stages=3, warps=4)
tma = MatmulConfig(128, 128, 64, stages=3, warps=8, variant="descriptor", subtile=True)
answer = {
    "plain": ptx((8, 0), small, layout="tn"),
    "unaligned": ptx((8, 0), small, aligned=False),
    "timeline": ptx((8, 0), small, timeline=True),
    "hopper": ptx((9, 0), tma, layout="tt", dtype="bf16"),
    "hopper timeline": ptx((9, 0), tma, timeline=True),
    "blackwell": ptx((10, 0), tma, layout="nt"),
    "split": ptx((8, 0), MatmulConfig(64, 64, 32, stages=3, warps=4, split_k=2, variant="persistent")),
}
""")
    return answer


@pytest.mark.slow
def test_sizes_known_as_multiples_of_8_keep_16_byte_loads_and_odd_ones_lose_them(ptx: dict[str, str]) -> None:
    assert "cp.async.cg.shared.global" in ptx["plain"]  # the 16-byte form
    assert "st.global.v4" in ptx["plain"]
    assert "cp.async.cg.shared.global" not in ptx["unaligned"]
    assert "ld.global.b16" in ptx["unaligned"]
    assert "st.global.v4" in ptx["split"]


@pytest.mark.slow
def test_each_architecture_gets_its_matrix_instruction(ptx: dict[str, str]) -> None:
    assert "mma.sync.aligned.m16n8k16" in ptx["plain"]
    assert "wgmma.mma_async" in ptx["hopper"]
    assert "cp.async.bulk.tensor.2d" in ptx["hopper"]
    assert "tcgen05.mma" in ptx["blackwell"]


@pytest.mark.slow
def test_the_clock_and_the_sm_are_read_only_with_the_timeline_flag(ptx: dict[str, str]) -> None:
    for name in ("timeline", "hopper timeline"):
        assert "%smid" in ptx[name]
        assert ptx[name].count("%globaltimer") == 2
    for name in ("plain", "hopper"):
        assert "%smid" not in ptx[name]
        assert "%globaltimer" not in ptx[name]


@pytest.mark.parametrize("config", (PLAIN, SPLIT), ids=str)
def test_a_row_that_starts_past_2_to_31_elements_is_reached(config: MatmulConfig, device: str) -> None:
    stride = 2**26 + 8  # the 33rd row starts at 2**31 + 256; on the CPU only touched pages take memory
    if device == "cuda" and torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs 12 GiB of GPU memory")
    a = torch.empty(36 * stride, dtype=torch.float16, device=device).as_strided((36, 40), (stride, 1))
    out = torch.empty(36 * stride, dtype=torch.float16, device=device).as_strided((36, 24), (stride, 1))
    a.copy_(matrix(36, 40, "n", device))
    out.fill_(float("nan"))
    b = matrix(40, 24, "n", device)
    matmul(a, b, config=config, out=out)
    assert relative_error(out, a, b) < TOLERANCE[torch.float16]


GPU_CONFIGS = (
    MatmulConfig(128, 128, 32, stages=3, warps=4),
    MatmulConfig(128, 256, 64, stages=3, warps=8),
    MatmulConfig(128, 128, 32, stages=3, warps=4, variant="persistent"),
    MatmulConfig(64, 64, 32, stages=3, warps=4, split_k=5),
    MatmulConfig(128, 256, 64, stages=3, warps=8, variant="descriptor", subtile=True),
    MatmulConfig(128, 128, 64, stages=3, warps=8, split_k=3, variant="descriptor"),
    MatmulConfig(128, 128, 64, stages=3, warps=4, variant="descriptor", subtile=True, warp_specialize=True),
)


def gpu_operand(rows: int, cols: int, layout: str, dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn((rows, cols) if layout == "n" else (cols, rows), device="cuda", dtype=torch.float32).to(dtype)
    return x if layout == "n" else x.T


@pytest.mark.gpu
@pytest.mark.parametrize("config", GPU_CONFIGS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("m, n, k", [(2304, 1536, 4096), (257, 1000, 1032), (129, 257, 65), (1, 4096, 4096)])
def test_real_configs_match_float64_and_cublas(
    config: MatmulConfig, layout: str, dtype: torch.dtype, m: int, n: int, k: int
) -> None:
    capability = torch.cuda.get_device_capability()
    if capability < (8, 0):
        pytest.skip("these tiles are for compute capability 8.0 and later")
    if capability < ((10, 0) if config.warp_specialize else (9, 0) if config.variant == "descriptor" else (8, 0)):
        pytest.skip("not on this GPU")
    torch.manual_seed(m * n + k)
    a, b = gpu_operand(m, k, layout[0], dtype), gpu_operand(k, n, layout[1], dtype)
    if config.variant == "descriptor" and not descriptor_fits(a, b):
        pytest.skip("no descriptor can address these")
    out = poisoned(m, n, "cuda", dtype)
    try:
        matmul(a, b, config=config, out=out)
    except triton.runtime.errors.OutOfResources:
        pytest.skip("too much shared memory for this GPU")
    assert relative_error(out, a, b) < TOLERANCE[dtype]
    assert relative_error(out, a, b) < 1.05 * relative_error(a @ b, a, b) + 1e-6


def test_what_is_compiled_ahead_is_what_a_launch_looks_for(compiled: Callable[[str], Any]) -> None:
    found: dict[str, tuple[str, str]] = compiled("""
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import create_function_from_signature
from kernels.matmul import MatmulConfig, _operand, matmul_spec
spec = matmul_spec(MatmulConfig(128, 256, 64, stages=4, warps=8, variant="descriptor", subtile=True))
backend = make_backend(GPUTarget("cuda", 90, 32))
specialise = create_function_from_signature(spec.function.signature, spec.function.params, backend)
a, b, c = (_operand(torch.empty(256, 256, dtype=torch.float16), name) for name in ("a", "b", "c"))
descriptors = a.descriptor(128, 64), b.descriptor(64, 256), c.descriptor(128, 128)
constants = {name: value for name, value in spec.constants.items() if name != "timeline_ptr"}
_, launched, _ = specialise(*descriptors, None, 256, 256, 256, 256, **constants)
answer = {name: (kind, spec.signature[name]) for name, (kind, _) in zip(spec.function.arg_names, launched)}
""")
    assert found["a_desc"][0].startswith("tensordesc<")
    assert {name: at_launch for name, (at_launch, _) in found.items()} == {
        name: ours for name, (_, ours) in found.items()
    }


@pytest.mark.gpu
@pytest.mark.parametrize("k", [4096, 4095])
def test_the_default_config_runs_on_this_gpu(k: int) -> None:
    a, b = gpu_operand(1000, k, "n", torch.float16), gpu_operand(k, 776, "t", torch.float16)
    assert relative_error(matmul(a, b), a, b) < TOLERANCE[torch.float16]


@pytest.mark.gpu
def test_a_prepared_product_replays_from_a_cuda_graph() -> None:
    a, b = gpu_operand(300, 256, "n", torch.float16), gpu_operand(256, 200, "n", torch.float16)
    launch = prepare_matmul(a, b, config=MatmulConfig(64, 64, 32, stages=3, warps=4, split_k=2))
    launch()  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = launch()
    out.fill_(float("nan"))
    graph.replay()
    assert relative_error(out, a, b) < TOLERANCE[torch.float16]
