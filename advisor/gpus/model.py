"""The facts of one GPU. Every figure may be unknown (None); none is ever another GPU's."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Gpu:
    """One GPU model, or one card as its driver describes it.

    FLOP figures count a multiply-add as 2 FLOP, are dense (no 2:4 sparsity) and are per SM and clock.
    """

    id: str  # canonical short name, e.g. "a100-sxm4-80gb"; also the name of its profile file
    name: str  # the driver's name, e.g. "NVIDIA A100-SXM4-80GB"
    compute_capability: tuple[int, int]
    sms: int
    memory_bytes: int | None = None  # total device memory as sold (GiB for data-centre cards)
    boost_clock_hz: float | None = None
    memory_bandwidth_bytes_per_s: float | None = None
    fp16_flop_per_clock_per_sm: int | None = None  # Tensor Cores, FP32 accumulate; None: no Tensor Cores, or unknown
    bf16_flop_per_clock_per_sm: int | None = None
    tf32_flop_per_clock_per_sm: int | None = None
    fp32_flop_per_clock_per_sm: int | None = None  # CUDA cores
    l2_bytes: int | None = None
    shared_memory_per_sm_bytes: int | None = None
    shared_memory_per_block_bytes: int | None = None  # the opt-in maximum
    registers_per_sm: int | None = None
    threads_per_sm: int | None = None
    blocks_per_sm: int | None = None
    tdp_w: float | None = None
    verified: bool = False  # True: the maker's documents named in `sources` print these figures, or give them
    sources: dict[str, str] = field(default_factory=dict)  # figure -> where it comes from
    tensor_cores_per_sm: int | None = None  # 0: none
    tensor_clock_hz: float | None = None  # the boost clock stated for Tensor Core work, where it is a lower one
    cuda_memory_bytes: int | None = None  # what CUDA can hand out: the total less ECC and the driver's reserve

    @property
    def has_tensor_cores(self) -> bool:
        """Whether FP16 matrix products run on Tensor Cores."""
        if self.tensor_cores_per_sm is None:
            return self.fp16_flop_per_clock_per_sm is not None
        return self.tensor_cores_per_sm > 0

    def supports(self, precision: str) -> bool:
        """Whether the GPU has Tensor Cores for "fp16", "bf16" or "tf32"; "fp32" runs on CUDA cores everywhere.

        BF16 and TF32 came with compute capability 8.0 (NVIDIA A100 architecture white paper).
        """
        if precision == "fp32":
            return True
        return self.has_tensor_cores and (precision == "fp16" or self.compute_capability >= (8, 0))

    def peak_flops_per_s(self, precision: str) -> float | None:
        """Dense peak in FLOP/s for "fp16", "bf16", "tf32" or "fp32"; None where a figure is unknown."""
        per_clock: int | None = getattr(self, f"{precision}_flop_per_clock_per_sm")
        clock_hz = self.boost_clock_hz if precision == "fp32" else self.tensor_clock_hz or self.boost_clock_hz
        if per_clock is None or clock_hz is None:
            return None
        return per_clock * self.sms * clock_hz
