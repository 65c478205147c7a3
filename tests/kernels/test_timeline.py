from __future__ import annotations

import pytest
import torch

from advisor.timeline import decode, group_waves
from kernels.matmul import MatmulConfig, matmul, matmul_ctas
from kernels.timeline import check_timeline, timeline_buffer


def test_a_buffer_starts_unwritten_and_must_have_a_row_per_cta() -> None:
    buffer = timeline_buffer(4, "cpu")
    assert buffer.tolist() == [[-1, -1, -1]] * 4
    check_timeline(buffer, 4, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"timeline_buffer\(5, device\)"):
        check_timeline(buffer, 5, torch.device("cpu"))
    with pytest.raises(ValueError, match="this launch needs"):
        check_timeline(buffer.int(), 4, torch.device("cpu"))
    with pytest.raises(ValueError, match="on cpu, the operands on meta"):
        check_timeline(buffer, 4, torch.device("meta"))


def test_a_buffer_of_the_wrong_length_is_refused_before_the_launch(device: str) -> None:
    a, b = torch.ones(64, 32, device=device).half(), torch.ones(32, 64, device=device).half()
    with pytest.raises(ValueError, match=r"timeline_buffer\(16, device\)"):
        matmul(a, b, config=MatmulConfig(16, 16, 16, stages=1, warps=4), timeline=timeline_buffer(3, device))


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["plain", "persistent"])
def test_every_cta_of_a_launch_is_seen_within_the_sms_of_the_gpu(variant: str) -> None:
    sms = torch.cuda.get_device_properties(0).multi_processor_count
    config = MatmulConfig(64, 64, 32, stages=3, warps=4, variant=variant)  # a parameter
    m = 64 * (8 * sms + 1)
    a, b = torch.randn(m, 512, device="cuda").half(), torch.randn(512, 64, device="cuda").half()
    ctas = matmul_ctas(m, 64, config, sms)
    buffer = timeline_buffer(ctas, "cuda")
    matmul(a, b, config=config)  # compiled, warm
    got = matmul(a, b, config=config, timeline=buffer)
    assert torch.allclose(got, a @ b, rtol=1e-2, atol=1e-1)
    timeline = decode(buffer.cpu().numpy())
    waves = group_waves(timeline, sms=sms)
    assert timeline.ctas == ctas
    assert timeline.sm.min() >= 0
    assert timeline.sm.max() < 2 * sms  # ids of switched-off SMs are skipped
    assert timeline.span_ns < 1e9
    assert sum(wave.ctas for wave in waves.waves) == ctas
    assert 0 < waves.busy_share <= 1
    if variant == "persistent":
        assert len(waves.waves) == 1
