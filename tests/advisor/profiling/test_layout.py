"""The memory layout that the names of convolution kernels tell."""

from __future__ import annotations

from advisor.profiling.kernels.layout import traced_layout
from advisor.profiling.records import KernelGroup
from tests.advisor.profiling.priced import group

NHWC = "sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x128x32_stage4"
NCHW = "sm80_xmma_fprop_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nchw_tilesize128x128x16_stage4"
CONVERSION = "void cudnn::ops::nchwToNhwcKernel<__half, __half, float, false, true>"


def fprop(name: str, seconds: float) -> KernelGroup:
    return group(name=name, class_="fprop", total_s=seconds)


def test_most_of_the_convolutions_time_decides() -> None:
    assert traced_layout([fprop(NHWC, 2e-3), fprop("volta_scudnn_128x64_relu_medium_nn_v1", 1e-3)]) == "nhwc"
    assert traced_layout([fprop(NHWC, 1e-3), fprop("volta_scudnn_128x64_relu_medium_nn_v1", 2e-3)]) == "nchw"


def test_kernels_of_nhwc_that_serve_nchw_tensors_say_nchw() -> None:
    assert traced_layout([fprop(NCHW, 2e-3)]) == "nchw"


def test_conversions_tell_nchw_but_for_a_stray_one() -> None:
    for seconds, layout in ((1e-3, "nchw"), (1e-5, "nhwc")):
        converting = group(name=CONVERSION, class_="copy", total_s=seconds)
        assert traced_layout([fprop(NHWC, 2e-3), converting]) == layout


def test_without_convolutions_there_is_no_layout() -> None:
    assert traced_layout([group()]) is None
