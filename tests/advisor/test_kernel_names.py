"""Names of kernels as profilers recorded them, from Volta to Blackwell, and what they tell."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.kernel_names import KernelName, parse_kernel_name
from advisor.quantization import tile_count
from tests.data import measured

# name; library, operation, precision, Tensor Cores, tile, stages, split-K
NAMES = [
    ("volta_fp16_s884gemm_fp16_128x128_ldg8_f2f_nn", "cuBLAS", "gemm", "fp16", True, "128x128", None, None),
    (  # what cuBLAS takes for operands that are not aligned to 16 bytes, up to Hopper
        "void cutlass::Kernel2<cutlass_75_tensorop_bf16_s1688gemm_bf16_128x64_tn_align1>(cutlass_75_tensorop_bf16_"
        "s1688gemm_bf16_128x64_tn_align1::Params)",
        "CUTLASS", "gemm", "bf16", True, "128x64", None, None,
    ),
    (
        "ampere_int8_i16832gemm_int8_i32_128x128_ldg16_stages_64x3_tn",
        "cuBLAS", "gemm", "int8", True, "128x128x64", 3, None,
    ),
    ("nvjet_sm120_qqtst_mma_64x64x128_3_32x32x128_tmaAB_bz_TNNN", "cuBLAS", "gemm", "fp8", True, "64x64x128", 3, None),
    ("volta_h884gemm_256x128_ldg8_nn", "cuBLAS", "gemm", "fp16", True, "256x128", None, None),
    ("volta_sgemm_32x128_nt", "cuBLAS", "gemm", "fp32", False, "32x128", None, None),
    ("turing_fp16_s1688gemm_fp16_256x128_ldg8_f2f_tn", "cuBLAS", "gemm", "fp16", True, "256x128", None, None),
    (
        "turing_fp16_s1688cudnn_fp16_128x128_ldg8_relu_f2f_exp_medium_nhwc_tn_v1",
        "cuDNN", "conv", "fp16", True, "128x128", None, None,
    ),
    (
        "volta_fp16_s884cudnn_fp16_128x128_ldg8_splitK_relu_f2f_exp_small_nhwc_tn_v1",
        "cuDNN", "conv", "fp16", True, "128x128", None, True,
    ),
    ("volta_scudnn_128x128_stridedB_splitK_small_nn_v1", "cuDNN", "conv", "fp32", False, "128x128", None, True),
    ("cudnn_ampere_scudnn_128x64_relu_xregs_large_nn_v1", "cuDNN", "conv", "fp32", False, "128x64", None, None),
    (
        "volta_scudnn_winograd_128x128_ldg1_ldg4_relu_tile148t_nt_v1",
        "cuDNN", "conv", "fp32", False, "128x128", None, None,
    ),
    (
        "ampere_fp16_s16816gemm_fp16_128x128_ldg8_f2f_stages_32x5_tn",
        "cuBLAS", "gemm", "fp16", True, "128x128x32", 5, None,
    ),
    (
        "ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_tn",
        "cuBLAS", "gemm", "bf16", True, "128x256x64", 3, None,
    ),
    ("ampere_sgemm_32x32_sliced1x4_tn", "cuBLAS", "gemm", "fp32", False, "32x32", None, None),
    ("ampere_gcgemm_64x64_nt", "cuBLAS", "gemm", "fp32", False, "64x64", None, None),
    (
        "cutlass_80_tensorop_f16_s16816gemm_f16_256x128_32x3_tn_align8",
        "CUTLASS", "gemm", "fp16", True, "256x128x32", 3, None,
    ),
    (
        "void cutlass::Kernel<cutlass_80_tensorop_s1688gemm_128x256_32x3_tn_align1>"
        "(cutlass_80_tensorop_s1688gemm_128x256_32x3_tn_align1::Params)",
        "CUTLASS", "gemm", "tf32", True, "128x256x32", 3, None,
    ),
    (
        "void cutlass::Kernel2<cutlass_75_wmma_tensorop_f16_s161616gemm_f16_16x16_128x2_tn_align8>(cutlass_75::Params)",
        "CUTLASS", "gemm", "fp16", True, "16x16x128", 2, None,
    ),
    (
        "_ZN7cutlass7Kernel2I40cutlass_80_simt_sgemm_128x64_8x5_tn_align1EEvNT_6ParamsE",
        "CUTLASS", "gemm", "fp32", False, "128x64x8", 5, None,
    ),
    (
        "void cutlass_cudnn::Kernel<cutlass_tensorop_f16_s16816dgrad_optimized_f16_128x256_32x3_unity_stride>(x)",
        "cuDNN", "dgrad", "fp16", True, "128x256x32", 3, None,
    ),
    (
        "sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize256x64x32_stage3_warpsize4x1x1_g1_"
        "tensor16x8x16_execute_kernel__5x_cudnn",
        "cuDNN", "fprop", "fp16", True, "256x64x32", 3, None,
    ),
    (
        "sm80_xmma_wgrad_implicit_gemm_indexed_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize32x256x32_stage3_warpsize1x4x1_g1_"
        "tensor16x8x16_execute_kernel_cudnn_train",
        "cuDNN", "wgrad", "fp16", True, "32x256x32", 3, None,
    ),
    (
        "sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel__5x_cublas",
        "cuBLAS", "gemm", "fp16", True, "128x128x64", None, False,
    ),
    (
        "sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x128x32_warpgroupsize1x1x1_execute_segment_k_off_kernel__5x_cublas",
        "cuBLAS", "gemm", "tf32", True, "128x128x32", None, False,
    ),
    (
        "cutlass3x_sm90_tensorop_s64x128x16gemm_f16_f16_f32_f16_f16_128x128x64_2x1x1_0_ttt_align8_warpspecialized_pingpong",
        "CUTLASS", "gemm", "fp16", True, "128x128x64", None, None,
    ),
    (
        "cutlass3x_sm100_simt_sgemm_f32_f32_f32_f32_f32_64x64x16_1x1x1_3_tnn_align1_bias_f32_relu",
        "CUTLASS", "gemm", "fp32", False, "64x64x16", 3, None,
    ),
    ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NTN", "cuBLAS", "gemm", "fp16", True, "128x256x64", 4, None),
    ("nvjet_sm90_hss_64x8_64x16_1x1_h_bz_splitK_NNT", "cuBLAS", "gemm", "fp16", True, "64x8x64", 16, True),
    ("nvjet_sm100_tst_128x256_64x6_2x2_2cta_h_bz_NNT", "cuBLAS", "gemm", "bf16", True, "128x256x64", 6, None),
    (
        "nvjet_sm120_tst_mma_64x64x128_3_32x32x128_tmaAB_alignCD4_bz_TNNN",
        "cuBLAS", "gemm", "bf16", True, "64x64x128", 3, None,
    ),
    (
        "Volta_hmma_implicit_gemm_fprop_fp32_nhwc_128x128x64x1_1x3x3x0x1",
        "cuDNN", "fprop", "fp16", True, "128x128x64", None, None,
    ),
    ("volta_s884gemm_fp16_128x64_ldg8_f2f_nt", "cuBLAS", "gemm", "fp16", True, "128x64", None, None),
    ("turing_s1688cudnn_fp16_128x128_ldg8_wgrad_idx_exp_interior_nhwc_nt_v1",
     "cuDNN", "wgrad", "fp16", True, "128x128", None, None),
    ("ampere_s16816gemm_bf16_128x128_ldg8_stages_64x3_tn", "cuBLAS", "gemm", "bf16", True, "128x128x64", 3, None),
    ("void cutlass::Kernel2<cutlass_80_tensorop_d884gemm_32x32_16x5_nn_align1>(x)",
     "CUTLASS", "gemm", "fp64", True, "32x32x16", 5, None),
    ("volta_cgemm_32x64_tn", "cuBLAS", "gemm", "fp32", False, "32x64", None, None),
    (
        "cudnn_infer_ampere_scudnn_winograd_128x128_ldg1_ldg4_relu_tile148t_nt_v1",
        "cuDNN", "conv", "fp32", False, "128x128", None, None,
    ),
    (
        "cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_128x256_64x3_nt_align8",
        "CUTLASS", "gemm", "bf16", True, "128x256x64", 3, None,
    ),
    (
        "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_s1688fprop_optimized_tf32_64x64_16x10_nhwc_align4>(x)",
        "cuDNN", "fprop", "tf32", True, "64x64x16", 10, None,
    ),
    (
        "void cutlass::Kernel<cutlass_tensorop_s1688dgrad_precomputed_tf32_256x64_16x4_unity_stride>(x)",
        "CUTLASS", "dgrad", "tf32", True, "256x64x16", 4, None,
    ),
    (
        "sm80_xmma_fprop_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nchw_tilesize128x128x16_stage4_"
        "warpsize2x2x1_g1_tensor16x8x8_alignc4_execute_kernel_cudnn",
        "cuDNN", "fprop", "tf32", True, "128x128x16", 4, None,
    ),
    (
        "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_128x128x8_stage3_ffma",
        "cuBLAS", "gemm", "fp32", False, "128x128x8", 3, None,
    ),
    (
        "sm90_xmma_dgrad_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x64x32_warpgroupsize1x1x1_g1_"
        "execute_segment_k_on_kernel__5x_cudnn",
        "cuDNN", "dgrad", "tf32", True, "128x64x32", None, True,
    ),
    (
        "void xmma_new::gemm::kernel<xmma_new::implicit_gemm::wgrad_indexed::Kernel_traits<xmma_new::"
        "Ampere_hmma_tf32_traits<unsigned int, float>, xmma_new::Cta_tile<xmma_new::Ampere, 128, 64, 16, 2, 2, 1>>>",
        "cuDNN", "wgrad", "tf32", True, "128x64x16", None, None,
    ),
    (
        "_ZN13cutlass_cudnn6KernelINS_4conv6kernel23ImplicitGemmConvolutionINS1_11threadblock22ImplicitGemmMultistage"
        "INS_4gemm9GemmShapeILi64ELi128ELi32EEENS4_52Conv2dWgradOutputGradientTileAccessIteratorOptimizedINS_11Matrix"
        "ShapeILi64ELi32EEENS_10tfloat32_tENS6_4warp11MmaTensorOpINS7_ILi32ELi64ELi32EEE",
        "cuDNN", "wgrad", "tf32", True, "64x128x32", None, None,
    ),
    (
        "void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<cute::tuple<int, int, int, int>, "
        "cutlass::gemm::collective::CollectiveMma<cutlass::gemm::MainloopSm90TmaGmmaWarpSpecialized<4, cute::tuple<"
        "cute::C<2>, cute::C<1>, cute::C<1> >, cutlass::gemm::KernelTmaWarpSpecializedPingpong>, cute::tuple<"
        "cute::C<128>, cute::C<256>, cute::C<64> >, cutlass::half_t, cute::tuple<long>",
        "CUTLASS", "gemm", "fp16", True, "128x256x64", None, None,
    ),
    ("nvjet_qqtst_128x256_128x6_2x1_2cta_v_bz_TNT", "cuBLAS", "gemm", "fp8", True, "128x256x128", 6, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "library", "operation", "precision", "tensor_cores", "tile", "stages", "split_k"), NAMES
)
def test_a_name_tells_the_cut_of_its_product(
    name: str,
    library: str,
    operation: str,
    precision: str | None,
    tensor_cores: bool,
    tile: str,
    stages: int | None,
    split_k: bool | None,
) -> None:
    found = parse_kernel_name(name)
    assert (found.library, found.operation, found.precision) == (library, operation, precision)
    assert (found.tensor_cores, found.tile, found.stages, found.split_k) == (tensor_cores, tile, stages, split_k)


def test_clusters_and_persistence_are_read_where_the_name_has_them() -> None:
    assert parse_kernel_name("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NTN").cluster == (1, 2)
    cooperative = (
        "cutlass3x_sm90_tensorop_s64x256x16gemm_f16_f16_f32_void_f32_128x256x64_2x1x1_0_ttt_align8_cooperative"
    )
    assert parse_kernel_name(cooperative).cluster == (2, 1)
    assert parse_kernel_name(cooperative).persistent is True


@pytest.mark.parametrize(
    ("name", "library", "operation"),
    [
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float, float>(...)", "cuBLAS", "split-K reduction"),
        ("void gemv2T_kernel_val<int, int, float, float, float, float, 128, 16, 4, 4, false>", "cuBLAS", "gemv"),
        ("void cudnn::detail::dgrad_engine<float, 512, 6, 5, 3, 3, 3, false>(int, int)", "cuDNN", "dgrad"),
        ("void cudnn::cnn::wgrad_alg0_engine<float, 128, 6, 7, 3, 3, 5, false, 512>(int)", "cuDNN", "wgrad"),
        ("void implicit_convolve_sgemm<float, float, 1024, 6, 7, 3, 3, 5, 1, false>(int)", "cuDNN", "conv"),
        ("void at::native::(anonymous namespace)::conv_depthwise2d_forward_kernel<3>", "PyTorch", "conv"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128>>", "FlashAttention", "attention"),
        ("fmha_cutlassF_f16_aligned_64x64_rf_sm80", "PyTorch", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3i_64x128x128", "cuDNN", "attention"),
        ("triton_poi_fused_add_cos_sin_0", "Triton", None),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "PyTorch", None),
    ],
)
def test_a_name_without_a_tile_still_tells_its_library(name: str, library: str, operation: str | None) -> None:
    found = parse_kernel_name(name)
    assert (found.library, found.operation, found.tile) == (library, operation, None)


@pytest.mark.parametrize(
    ("name", "operation", "precision", "tensor_cores"),
    [
        ("void cudnn::detail::dgrad_engine<float, 512, 6, 5, 3, 3, 3, false>(int, int)", "dgrad", "fp32", False),
        ("void cudnn::cnn::wgrad_alg0_engine<__half, 128, 6, 7, 3, 3, 5, false, 512>(int)", "wgrad", "fp16", False),
        ("void wgrad_alg0_engine_NHWC<float, 128, 5, 5, 3, 3, 3, false, 512>(int)", "wgrad", "fp32", False),
        ("void implicit_convolve_sgemm<float, float, 1024, 6, 7, 3, 3, 5, 1, false>(int)", "conv", "fp32", False),
        ("void explicit_convolve_sgemm<float, int, 1024, 5, 5, 3, 3, 3, 0, false>(int)", "conv", "fp32", False),
        (
            "void cudnn::cnn::conv2d_grouped_direct_kernel<false, true, false, false, 0, 0, int, __half, float>(x)",
            "conv", "fp16", False,
        ),
        ("void gemmk1_kernel<float, 256, 5, false, false, false, false>(x)", "gemm", "fp32", False),
        ("void internal::gemvx::kernel<int, int, __nv_bfloat16, __nv_bfloat16, float>(x)", "gemv", "bf16", False),
        (
            "void flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 64, 4, false, false, cutlass::half_t>>(x)",
            "attention", "fp16", True,
        ),
        ("fmha_cutlassB_bf16_aligned_128x64_k64_sm80", "attention", "bf16", True),
        ("fmha_cutlassF_f32_aligned_64x64_rf_sm80", "attention", "fp32", None),  # plain or TF32: it does not say
        # "f16" in runs of BF16 too: any type of 2 bytes
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_64x64x128", "attention", None, True),
        ("cudnn_generated_fort_native_sdpa_sm100_flash_fprop_f16_knob_1_128x128x128", "attention", None, True),
        ("cudnn_generated_fort_native_sdpa_sm100_flash_bprop_mxfp8_knob_1_128x128x128", "attention", "fp8", True),
        ("triton_tem_fused_addmm_t_view_9", "gemm", None, None),
    ],
)  # fmt: skip
def test_template_arguments_tell_the_precision(
    name: str, operation: str, precision: str | None, tensor_cores: bool | None
) -> None:
    found = parse_kernel_name(name)
    assert (found.operation, found.precision, found.tensor_cores) == (operation, precision, tensor_cores)


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("cask_cudnn::computeOffsetsKernel(cask_cudnn::ComputeOffsetsParams)", "conv"),
        ("cask_cudnn::computeWgradSplitKOffsetsKernel(cask_cudnn::ComputeSplitKOffsetsParams)", "wgrad"),
        ("void cudnn::winograd_nonfused::winogradForwardOutput4x4<float, float>(x)", "conv"),
        ("void cudnn::winograd_nonfused::winogradWgradDelta4x4<float, float>(x)", "wgrad"),
        ("void cudnn::ops::scalePackedTensor_kernel<float, float>(cudnnTensor4dStruct, float*, float)", "conv"),
        ("void fft2d_c2r_32x32<float, false, false, 0u, false, false>(float*, float2 const*)", "conv"),
        ("void at::native::im2col_kernel<float>(long, float const*)", "conv"),
        ("void splitKreduce_kernel<float, float, float, float, true, false, false>(x)", "split-K reduction"),
        ("void epilogue::impl::globalKernel<float, float, float, true, true>(int, int)", "gemm"),
        ("void flash_bwd_dot_do_o_kernel<true, Flash_bwd_kernel_traits<64, 128, 128, 8>>(x)", "attention"),
    ],
)
def test_a_kernel_that_only_serves_a_product_says_so(name: str, operation: str) -> None:
    found = parse_kernel_name(name)
    assert found.helper
    assert (found.operation, found.tensor_cores) == (operation, None)


def test_a_persistent_scheduler_is_read_from_the_template() -> None:
    name = (
        "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::"
        "CollectiveMainloopFwdSm90<2, cute::tuple<cute::C<1>, cute::C<1>, cute::C<1> >, cute::tuple<cute::C<128>, "
        "cute::C<176>, cute::C<128> >, 128, cutlass::bfloat16_t, float, cutlass::arch::Sm90, true>, "
        "flash::VarlenDynamicPersistentTileScheduler<64> > >"
    )
    found = parse_kernel_name(name)
    assert (found.library, found.operation, found.precision) == ("FlashAttention", "attention", "bf16")
    assert found.persistent is True


@pytest.mark.parametrize("name", ["", "somebody_elses_kernel", "ampere_things", "nvjet_", "void foo<int, 128x128>()"])
def test_an_unknown_name_says_unknown(name: str) -> None:
    assert parse_kernel_name(name) == KernelName(name)
    assert not parse_kernel_name(name).known


@given(st.text(max_size=300))
def test_any_text_is_answered(name: str) -> None:
    assert parse_kernel_name(name).name == name


def test_a_name_of_a_megabyte_takes_no_time_to_refuse() -> None:
    assert not parse_kernel_name("cutlass_80_tensorop_" + "a1_" * 400_000).known


def test_the_first_number_of_a_cublas_tile_runs_along_n() -> None:
    """A linear layer's grid in NeuSight's table: n_out over the first number, m over the second."""
    agreeing = judged = 0
    with (measured("neusight-fp32") / "linear_fp32_8gpus.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if not row["tile_a"] or row["tile_a"] == row["tile_b"]:
                continue
            first, second = int(float(row["tile_a"])), int(float(row["tile_b"]))
            m, n = int(row["m"]), int(row["n_out"])
            ours, other = tile_count(n, m, first, second), tile_count(m, n, first, second)
            if ours == other:
                continue
            grid = [int(row[f"grid_{axis}"]) for axis in "xyz"]
            blocks = grid[0] * grid[1] * grid[2]
            judged += 1
            agreeing += blocks in (ours, ours * grid[2])  # z: split-K
    assert judged > 19_000
    assert agreeing / judged > 0.99


@pytest.mark.parametrize("name", ["ampere_sgemm_0x0_tn", "ampere_sgemm_99999999999x64_tn"])
def test_a_tile_that_cannot_be_is_none(name: str) -> None:
    told = parse_kernel_name(name)
    assert told.library == "cuBLAS" and told.tile is None and told.tile_columns is None
