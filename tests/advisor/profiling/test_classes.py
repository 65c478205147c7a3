"""Classes of kernels by names that profilers recorded, and by the operators that launch them."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.profiling.kernels.classes import classify
from advisor.profiling.reading.reader import read_trace
from advisor.profiling.records import KernelClass, Operation, Phase, Product
from tests.data import recorded_trace


def operation(
    name: str, phase: Phase = "forward", product: Product | None = None, outer: str | None = None
) -> Operation:
    return Operation(name, outer or name, phase, (), (), (), product, name)


def convolution(pass_: str) -> Operation:
    product = Product("conv", 64, 64, 64, pass_=pass_)
    return operation("aten::convolution_backward", "backward", product)


BY_NAME: list[tuple[KernelClass, str]] = [
    ("gemm", "volta_fp16_s884gemm_fp16_128x128_ldg8_f2f_nn"),
    ("gemm", "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_64x4_tn"),
    ("gemm", "nvjet_tst_192x16_64x8_2x2_2cta_h_bz_TNT"),
    ("gemm", "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off"),
    ("gemm", "void splitKreduce_kernel<float, float, float, float, true, false, false>(cublasSplitKParams<float>)"),
    ("gemm", "void epilogue::impl::globalKernel<float, float, float, true, true>(int, int, long)"),
    ("gemm", "void gemmk1_kernel<float, 256, 5, false, false, false, false>(cublasGemmk1Params<float>)"),
    ("gemm", "void deep_gemm::sm90_fp8_gemm_1d2d_impl<0u, 4096u>(float*)"),
    ("gemm", "triton_tem_fused_addmm_t_view_9"),
    ("gemm", "fused_moe_kernel"),
    (
        "fprop",
        "sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize256x64x32_stage3_warpsize4x1x1_g1_",
    ),
    ("dgrad", "void cudnn::detail::dgrad_engine<float, 512, 6, 5, 3, 3, 3, false>(int, int, int)"),
    ("wgrad", "void cudnn::cnn::wgrad_alg0_engine<float, 128, 6, 7, 3, 3, 5, false, 512>(int, int)"),
    ("wgrad", "cask_cudnn::computeWgradSplitKOffsetsKernel(cask_cudnn::ComputeSplitKOffsetsParams)"),
    ("conv", "cask_cudnn::computeOffsetsKernel(cask_cudnn::ComputeOffsetsParams)"),
    ("conv", "void fft2d_r2c_32x32<float, false, 5u, true>(float2*, float const*, int)"),
    ("conv", "void cudnn::ops::scalePackedTensor_kernel<float, float>(cudnnTensor4dStruct, float*, float)"),
    ("conv", "void at::native::im2col_kernel<float>(long, float const*, long, long)"),
    ("attention", "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4>>(Flash_fwd_params)"),
    ("attention", "void flash_bwd_convert_dq_kernel<Flash_bwd_kernel_traits<128, 64, 128, 8>>(Flash_bwd_params)"),
    (
        "attention",
        "fmha_cutlassB_f16_aligned_64x64_k64_sm80(PyTorchMemEffAttention::AttentionBackwardKernel<>::Params)",
    ),
    ("attention", "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3i_64x128x128_4x1x1_cga1x1x1"),
    ("attention", "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::Collective>"),
    ("attention", "triton_tem_fused_flex_attention_backward_split_transpose_3"),
    ("attention", "fmha_fprop_fp16_512_64_sm80_kernel"),
    ("attention", "fmhaSm100fKernel_QkvBfloat16OBfloat16H128PagedKvCausalP64MultiCtasKvVarSeqQ16Kv128"),
    ("copy", "void vllm::scaled_fp8_quant_kernel<c10::BFloat16>(c10::Float8_e4m3fn*)"),
    ("communication", "ncclAllReduceRingLLKernel_sum_f32(ncclColl)"),
    ("communication", "ncclSymkDevKernel_AllGather_LL(ncclSymkDevWorkArgs4K)"),
    ("elementwise", "void vllm::rotary_embedding_kernel<c10::BFloat16, true>(long const*)"),
    ("elementwise", "triton_poi_fused_addmm_relu_14"),
    ("elementwise", "triton_poi_fused_bmm_0"),
    ("elementwise", "triton_poi_fused__scaled_dot_product_flash_attention_3"),
    ("normalisation", "triton_per_fused_add_addmm_native_layer_norm_view_5"),
    ("reduction", "triton_red_fused_mm_3"),
    ("reduction", "triton_per_fused_linalg_vector_norm_1"),
    (
        "reduction",
        "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::WelfordOps<float> > >",
    ),
    ("other", "void at::native::sbtopk::gatherTopK<float, unsigned int, 2, false>(float const*)"),
    (
        "copy",
        "void at::native::multi_tensor_apply_kernel<TensorListMetadata<2>, CopyFunctor<c10::BFloat16, float, 2> >(x)",
    ),
    ("copy", "void vllm::reshape_and_cache_flash_kernel<uint16_t, uint16_t>(uint16_t const*)"),
    ("attention", "void flashinfer::BatchPrefillWithPagedKVCacheKernel<(flashinfer::MaskMode)1>(x)"),
    ("normalisation", "void cudnn::bn_bw_1C11_kernel_new<float, float, float2, 512, true, 1>(float, float)"),
    ("normalisation", "void at::native::batch_norm_transform_input_kernel<c10::Half, c10::Half, float, false, int>(x)"),
    ("normalisation", "void at::native::(anonymous namespace)::RowwiseMomentsCUDAKernel<float, float>(long, float)"),
    ("normalisation", "void at::native::(anonymous namespace)::GammaBetaBackwardCUDAKernel_32x32<float, float>(long)"),
    ("normalisation", "void transformer_engine::normalization::rmsnorm_fwd_general_kernel<x>(Params)"),
    ("normalisation", "void flashinfer::norm::RMSNormKernel<8u, __nv_bfloat16>(x)"),
    ("normalisation", "void group_norm_silu_nhwc_kernel<__half>(__half const*, __half*)"),
    ("normalisation", "triton_per_fused_native_layer_norm_7"),
    ("normalisation", "triton_red_fused__to_copy_add_mean_mul_native_group_norm_rsqrt_3"),
    ("elementwise", "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, x>(int)"),
    ("elementwise", "void at::native::(anonymous namespace)::fused_dropout_kernel_vec<float, float, unsigned int, 1>"),
    ("elementwise", "void at::native::(anonymous namespace)::distribution_elementwise_grid_stride_kernel<float, 4>(x)"),
    ("elementwise", "void vllm::act_and_mul_kernel<c10::BFloat16, &vllm::silu_kernel<c10::BFloat16>, true>(x)"),
    ("elementwise", "transformer_engine::fused_rope_forward_kernel"),
    ("elementwise", "triton_poi_fused_add_cos_sin_0"),
    ("reduction", "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float>>>(x)"),
    ("reduction", "void (anonymous namespace)::softmax_warp_forward<float, float, float, 10, true>(float*)"),
    ("reduction", "void at::native::(anonymous namespace)::cunn_SoftMaxForwardSmem<8, float, float, float>(x)"),
    ("reduction", "void cunn_ClassNLLCriterion_updateOutput_kernel<float, float>(float*, float*)"),
    (
        "reduction",
        "void at::native::(anonymous namespace)::nll_loss_forward_reduce_cuda_kernel_2d<float, float, long>(x)",
    ),
    ("reduction", "liger_cross_entropy_kernel"),
    ("reduction", "triton_red_fused__log_softmax_nll_loss_forward_4"),
    ("embedding", "void at::native::(anonymous namespace)::indexSelectLargeIndex<float, long, unsigned int, 2, 2, -2>"),
    ("embedding", "void split_embedding_codegen_forward_unweighted_kernel<c10::Half, c10::Half, float, false, long>"),
    ("embedding", "void at::native::_scatter_gather_elementwise_kernel<128, 4, x>(int)"),
    ("embedding", "void at::native::index_elementwise_kernel<128, 4, at::native::gpu_index_kernel<x>>(long)"),
    ("embedding", "void fbgemm_gpu::permute_2D_data_kernel<false, int, int, decltype(nullptr)>(int)"),
    ("embedding", "triton_poi_fused_embedding_0"),
    ("optimizer", "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<TensorListMetadata<2>, x>(x)"),
    ("optimizer", "void multi_tensor_apply_kernel<TensorListMetadata<4>, AdamFunctor<float, float, int>, float>(long)"),
    ("optimizer", "void kOptimizerStatic8bit2StateBlockwise<float, 0, 256, 1>(float*)"),
    ("communication", "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"),
    ("communication", "ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(ncclDevComm*, unsigned long, ncclWork*)"),
    ("communication", "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 8>(vllm::RankData*)"),
    ("communication", "void (anonymous namespace)::two_shot_all_reduce_kernel_inplace<c10::BFloat16, 16, 2>(x)"),
    ("communication", "void deep_ep::internode_ll::dispatch<true, 3, 10, 7168>(void*)"),
    ("communication", "void userbuffers_fp16_sum_inplace_gpu_rr_ag<8>(int, int)"),
    ("copy", "void cudnn::ops::nchwToNhwcKernel<float, float, float, false, true, (cudnnKernelDataType_t)2>(x)"),
    ("copy", "void cudnn::engines_precompiled::nhwcToNchwKernel<__half, __half, float, true, false>(x)"),
    ("copy", "void at::native::(anonymous namespace)::CatArrayBatchedCopy<float, unsigned int, 1, 128, 1>(float*)"),
    ("copy", "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(x)::{lambda()#2}, x>"),
    ("copy", "void at::native::vectorized_elementwise_kernel<4, at::native::bfloat16_copy_kernel_cuda(x), x>(int)"),
    ("copy", "void fbgemm_gpu::(anonymous namespace)::_FP8rowwise_to_float_cuda_kernel<float>(unsigned char const*)"),
    ("copy", "void kDequantizeBlockwise<__nv_bfloat16, 512, 64, 8, 2>(float*, unsigned char*)"),
    ("copy", "triton_poi_fused__to_copy_clone_permute_2"),
    ("other", "void at::native::(anonymous namespace)::max_pool_backward_nchw<float, float>(int, float const*)"),
    ("other", "void cub::DeviceRadixSortOnesweepKernel<cub::DeviceRadixSortPolicy<long, int, int>::Policy800, false>"),
    ("other", "void RNN_blockPersist_fp_LSTM<float, float, float, 128, 2>(x)"),
    ("other", "somebody_elses_kernel"),
]


@pytest.mark.parametrize(("class_", "name"), BY_NAME)
def test_a_name_alone_tells_the_class(class_: KernelClass, name: str) -> None:
    assert classify(name, None, "other") == class_


@pytest.mark.parametrize("pass_", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize(
    "name",
    [
        "volta_sgemm_64x64_nn",  # of a Winograd convolution
        "ampere_gcgemm_64x64_nt",  # of a Fourier convolution
        "cask_cudnn::computeOffsetsKernel(cask_cudnn::ComputeOffsetsParams)",
        "void splitKreduce_kernel<float, float, float, float>(cublasSplitKParams<float>)",
        "void implicit_convolve_sgemm<float, float, 1024, 6, 7, 3, 3, 5, 1, false, true, true>(int)",
    ],
)
def test_what_a_convolution_launches_belongs_to_its_pass(name: str, pass_: str) -> None:
    assert classify(name, convolution(pass_), "backward") == pass_


def test_without_shapes_the_operator_tells_the_pass() -> None:
    name = "void implicit_convolve_sgemm<float, float, 128, 6, 7, 3, 3, 5, 1, false, true, true>(int)"
    assert classify(name, operation("aten::cudnn_convolution"), "forward") == "fprop"
    backward = operation("aten::cudnn_convolution_backward_weight", "backward")
    assert classify(name, backward, "backward") == "wgrad"
    assert classify(name, operation("aten::convolution_backward", "backward"), "backward") == "conv"


def test_layout_and_elementwise_kernels_of_a_convolution_are_not_billed_as_one() -> None:
    assert (
        classify("void nchwToNhwcKernel<float, float, float, true, false>(int)", convolution("dgrad"), "backward")
        == "copy"
    )
    fill = "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>, x>(int)"
    assert classify(fill, convolution("wgrad"), "backward") == "elementwise"


@pytest.mark.parametrize(
    ("operator", "class_"),
    [
        ("aten::native_layer_norm_backward", "normalisation"),
        ("aten::cudnn_batch_norm", "normalisation"),
        ("aten::embedding_dense_backward", "embedding"),
        ("aten::sum", "reduction"),
        ("aten::cross_entropy_loss", "reduction"),
    ],
)
def test_a_plain_reduction_belongs_to_the_normalisation_or_embedding_around_it(operator: str, class_: str) -> None:
    name = "void at::native::reduce_kernel<128, 4, at::native::ReduceOp<float, at::native::MeanOps<float>>>(x)"
    assert classify(name, operation(operator), "forward") == class_


def test_what_the_optimizer_launches_is_the_optimizers_but_for_products_and_communication() -> None:
    multiply = "void at::native::vectorized_elementwise_kernel<4, at::native::MulScalarFunctor<float, float>, x>(int)"
    assert classify(multiply, operation("aten::mul_", "optimizer"), "optimizer") == "optimizer"
    assert classify("volta_sgemm_128x64_nn", operation("aten::mm", "optimizer"), "optimizer") == "gemm"
    assert classify("ncclDevKernel_AllReduce_Sum_f32_RING_LL(x)", None, "optimizer") == "communication"


@pytest.mark.parametrize(
    ("operator", "class_"),
    [
        ("aten::mm", "gemm"), ("aten::_scaled_dot_product_flash_attention", "attention"), ("aten::copy_", "copy"),
        ("aten::native_batch_norm", "normalisation"), ("aten::convolution", "fprop"), ("aten::converted", "other"),
    ],
)  # fmt: skip
def test_of_a_kernel_nobody_knows_the_operator_decides(operator: str, class_: str) -> None:
    assert classify("somebody_elses_kernel", operation(operator), "forward") == class_


@pytest.mark.parametrize(
    ("trace", "most"),
    [
        ("resnet50_train_b32_fp32_v100", 0.01),  # pooling
        ("alexnet_a100", 0.09),  # pooling
        ("triton_kernel_a100", 0.0),
        ("sampled_no_device_properties", 0.02),  # sorting and scans
    ],
)
def test_little_of_a_real_trace_is_unclassified(trace: str, most: float) -> None:
    raw = read_trace(recorded_trace(f"{trace}.json.gz"))
    other = [classify(name, None, "other") == "other" for name in raw.names]
    spent = raw.kernels.duration_us
    assert sum(spent[[other[name] for name in raw.kernels.name]]) / spent.sum() <= most


@given(st.text(max_size=300))
def test_any_name_has_a_class(name: str) -> None:
    assert classify(name, None, "other") in get_args(KernelClass)
