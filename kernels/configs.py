"""The shipped configurations: a few per architecture, each with the reason why it is there, and a choice among them.

How the tables came about. A wide grid of tiles, stages, warps and variants was compiled for every architecture, and
kept was what the compiler made well (`tests/kernels/test_configs.py` holds every entry to it, in the three layouts
that training needs): nothing spilled, the architecture's matrix instruction, every load 16 bytes per thread or a whole
tile, at least one CTA per SM. Of what was left stands here what differs in purpose: the tile that reuses most, tiles
for products that fill the GPU less, a thin one for few rows, split-K for small C. Entries marked `unaligned` spill
nothing for odd sizes either, where loads are 2 bytes wide and addresses take more registers. Entries of split-K stand
for any number of slices, one included.

The choice without measuring, `default_config`, is a rule with assumed constants (`kernels.choice`).
"""

from __future__ import annotations

from kernels.choice import ARCHITECTURES, Curated, nearest_architecture, ranked, usable
from kernels.conv2d_parts import ConvConfig, ConvPass, check_pass
from kernels.matmul import MatmulConfig

# Triton pipelines with one buffer fewer than `stages` where the matrix instruction reads registers (HMMA).
_AMPERE_MATMUL = (
    Curated(MatmulConfig(128, 256, 64, 3, 8), "large C: the most products per load that 255 registers hold"),
    Curated(MatmulConfig(128, 256, 64, 3, 8, variant="persistent"), "large C of many waves: the next tile's loads "
            "overlap this one's end"),
    Curated(MatmulConfig(128, 128, 32, 4, 4), "two CTAs per SM: one computes while the other stores"),
    Curated(MatmulConfig(128, 128, 32, 3, 8), "odd sizes: half the accumulators per thread", unaligned=True),
    Curated(MatmulConfig(64, 128, 32, 4, 4), "medium C: three CTAs per SM", unaligned=True),
    Curated(MatmulConfig(64, 64, 64, 4, 4, split_k=4), "small C: of a long K in slices, to fill the GPU"),
    Curated(MatmulConfig(16, 64, 64, 5, 4, split_k=4), "few rows: 16 is the least of the instruction", unaligned=True),
)  # fmt: skip
_ADA_MATMUL = (  # 8.6 and 8.9: 100 KiB of shared memory per SM, and half the matrix rate of 8.0
    Curated(MatmulConfig(128, 256, 32, 3, 8), "large C: half the K per step, to fit 99 KiB"),
    Curated(MatmulConfig(128, 128, 64, 3, 8, variant="persistent"), "large C of many waves: the next tile's loads "
            "overlap this one's end"),
    Curated(MatmulConfig(128, 128, 32, 4, 4), "two CTAs per SM: one computes while the other stores"),
    Curated(MatmulConfig(64, 128, 32, 4, 4), "medium C: twice the CTAs of 128 x 128", unaligned=True),
    Curated(MatmulConfig(64, 64, 64, 3, 4, split_k=4), "small C: of a long K in slices, to fill the GPU"),
    Curated(MatmulConfig(16, 64, 64, 5, 4, split_k=4), "few rows: 16 is the least of the instruction", unaligned=True),
)  # fmt: skip
_HOPPER_MATMUL = (
    Curated(MatmulConfig(128, 256, 64, 4, 8, variant="descriptor", subtile=True), "large C: the widest instruction "
            "(N = 256), four stages in 224 KiB because C leaves in halves"),
    Curated(MatmulConfig(128, 128, 64, 4, 8, variant="descriptor"), "medium C: half the tile, loads by the TMA"),
    Curated(MatmulConfig(64, 128, 64, 4, 4, variant="descriptor"), "64 rows: one warp group's instruction, by the TMA"),
    Curated(MatmulConfig(128, 256, 64, 3, 8), "large C where descriptors cannot address the operands"),
    Curated(MatmulConfig(128, 128, 64, 3, 8), "two CTAs per SM: one computes while the other stores"),
    Curated(MatmulConfig(64, 128, 32, 4, 4), "medium C: four CTAs per SM", unaligned=True),
    Curated(MatmulConfig(64, 64, 64, 4, 4, split_k=4), "small C: of a long K in slices, to fill the GPU"),
    Curated(MatmulConfig(32, 64, 32, 4, 4, split_k=4), "few rows: by HMMA, as Hopper's own instruction takes 64",
            unaligned=True),
)  # fmt: skip
_BLACKWELL_MATMUL = (  # 10.x: accumulators in Tensor Memory, 512 columns per SM
    Curated(MatmulConfig(128, 256, 64, 4, 8, variant="descriptor", subtile=True), "large C: two tiles' accumulators "
            "fill Tensor Memory, four stages in 224 KiB because C leaves in halves"),
    Curated(MatmulConfig(128, 256, 64, 4, 8, variant="descriptor", subtile=True, warp_specialize=True), "the same with "
            "warps of their own for loads and matrix instructions"),
    Curated(MatmulConfig(128, 128, 64, 4, 8, variant="descriptor"), "medium C: half the tile, loads by the TMA"),
    Curated(MatmulConfig(128, 256, 64, 3, 8), "large C where descriptors cannot address the operands"),
    Curated(MatmulConfig(128, 128, 64, 3, 8), "two CTAs per SM: one computes while the other stores"),
    Curated(MatmulConfig(64, 128, 32, 4, 4), "medium C: four CTAs per SM", unaligned=True),
    Curated(MatmulConfig(64, 64, 64, 4, 4, split_k=4), "small C: of a long K in slices, to fill the GPU"),
    Curated(MatmulConfig(32, 64, 64, 4, 4, split_k=4), "few rows: by HMMA, as Blackwell's own instruction takes 64",
            unaligned=True),
)  # fmt: skip
_GEFORCE_BLACKWELL_MATMUL = (  # 12.x: HMMA and 100 KiB as on Ada, with the TMA; 64 x 64 tiles spill here
    Curated(MatmulConfig(128, 128, 64, 3, 8, variant="descriptor", subtile=True), "large C: loads by the TMA"),
    Curated(MatmulConfig(128, 256, 32, 3, 8), "large C: half the K per step, to fit 99 KiB"),
    Curated(MatmulConfig(128, 128, 64, 3, 8, variant="persistent"), "large C of many waves where descriptors cannot "
            "address the operands"),
    Curated(MatmulConfig(128, 128, 32, 4, 4), "two CTAs per SM: one computes while the other stores"),
    Curated(MatmulConfig(64, 128, 32, 4, 4), "medium C: twice the CTAs of 128 x 128", unaligned=True),
    Curated(MatmulConfig(32, 64, 64, 4, 4, split_k=4), "small C: of a long K in slices, to fill the GPU",
            unaligned=True),
    Curated(MatmulConfig(16, 64, 64, 5, 4, split_k=4), "few rows: 16 is the least of the instruction", unaligned=True),
)  # fmt: skip
_NO_MATRIX_MATMUL = (  # 7.x: today's Triton multiplies on the FP32 units there
    Curated(MatmulConfig(64, 64, 16, 1, 4), "the largest tile whose FP32 operands stay in registers", unaligned=True),
)
_MATMUL: dict[tuple[int, int], tuple[Curated[MatmulConfig], ...]] = {
    (7, 0): _NO_MATRIX_MATMUL,
    (7, 5): _NO_MATRIX_MATMUL,
    (8, 0): _AMPERE_MATMUL,
    (8, 6): _ADA_MATMUL,
    (8, 9): _ADA_MATMUL,
    (9, 0): _HOPPER_MATMUL,
    (10, 0): _BLACKWELL_MATMUL,
    (12, 0): _GEFORCE_BLACKWELL_MATMUL,
}

# A convolution's M is the pixels of the batch and its N the channels it writes; in wgrad M is the output channels, N
# the filters' taps times the input channels, and the pixels are K, which has to be split. What is masked and gathered
# takes the registers that larger tiles would need.
_CONV_LARGE = (
    Curated(ConvConfig(128, 128, 64, 3, 8), "128 channels and more"),
    Curated(ConvConfig(128, 128, 32, 3, 8), "as many, of a K that 64 does not divide: less is padded"),
    Curated(ConvConfig(128, 64, 64, 3, 4), "64 channels: no column of the tile is wasted"),
)
_CONV_FORWARD = (
    *_CONV_LARGE,
    Curated(ConvConfig(64, 64, 64, 3, 4), "few pixels: four times the CTAs of 128 x 128"),
    Curated(ConvConfig(64, 64, 32, 3, 8), "odd channels: half the addresses per thread", unaligned=True),
)
_CONV_DGRAD = (
    *_CONV_LARGE,
    Curated(ConvConfig(64, 64, 32, 4, 4), "few pixels, or odd channels: 64 x 64 x 64 spills here", unaligned=True),
)
_CONV_WGRAD = (
    Curated(ConvConfig(128, 128, 32, 3, 8, split_k=8), "128 channels and more"),
    Curated(ConvConfig(128, 64, 64, 3, 4, split_k=8), "64 input channels by one tap"),
    Curated(ConvConfig(64, 64, 64, 3, 4, split_k=8), "64 channels"),
    Curated(ConvConfig(64, 64, 32, 3, 8, split_k=8), "odd channels: half the addresses per thread", unaligned=True),
)
_CONV_NO_MATRIX = (
    Curated(ConvConfig(64, 64, 16, 1, 4), "the largest tile whose FP32 operands stay in registers"),
    Curated(ConvConfig(32, 32, 32, 1, 4), "odd channels: fewer addresses per thread", unaligned=True),
)


def _per_architecture(
    tensor_cores: tuple[Curated[ConvConfig], ...], none: tuple[Curated[ConvConfig], ...]
) -> dict[tuple[int, int], tuple[Curated[ConvConfig], ...]]:
    return {capability: tensor_cores if capability >= (8, 0) else none for capability in ARCHITECTURES}


_CONVOLUTION = {
    "forward": _per_architecture(_CONV_FORWARD, _CONV_NO_MATRIX),
    "dgrad": _per_architecture(_CONV_DGRAD, _CONV_NO_MATRIX),
    "wgrad": _per_architecture(_CONV_WGRAD, _CONV_NO_MATRIX),
}


def matmul_configs(capability: tuple[int, int]) -> tuple[Curated[MatmulConfig], ...]:
    """The curated configurations of a matrix product, the largest tile first. Raises ValueError before 7.0."""
    return _MATMUL[nearest_architecture(capability)]


def conv_configs(capability: tuple[int, int], pass_: ConvPass) -> tuple[Curated[ConvConfig], ...]:
    """The curated configurations of a convolution's pass, the largest tile first.

    Raises ValueError for an unknown pass, and before 7.0.
    """
    check_pass(pass_)
    return _CONVOLUTION[pass_][nearest_architecture(capability)]


def default_config(
    m: int, n: int, k: int, *, sms: int, capability: tuple[int, int], aligned: bool = True, descriptors: bool = True
) -> MatmulConfig:
    """A configuration for C[m, n] = A[m, k] B[k, n] on a GPU of `sms` SMs where nothing was measured.

    aligned: sizes and strides are multiples of 8 elements. descriptors: whether tensor descriptors may be used.
    Raises ValueError before compute capability 7.0.
    """
    configs = usable(matmul_configs(capability), aligned=aligned, descriptors=descriptors)
    return ranked(configs, m, n, k, sms=sms, capability=capability)[0]
