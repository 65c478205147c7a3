"""Whole profiles of simulated traces of today: what is said is held against what was built in."""

from __future__ import annotations

from collections import Counter

import pytest

from advisor.profiling.analysis import profile_trace
from advisor.profiling.records import BillLine, KernelGroup, TraceProfile
from tests.advisor.profiling.simulated import Simulation, simulate
from tests.advisor.profiling.simulated_kernels import A100, H100
from tests.advisor.profiling.simulated_models import gpt_bf16, resnet_amp

Run = tuple[TraceProfile, Simulation]
PRODUCTS = ("s16816gemm", "xmma_", "nvjet", "flash_fwd_kernel", "flash_bwd_dq")  # on Tensor Cores


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("resnet") / "trace.json"
    run = simulate(resnet_amp(), A100, path)
    return profile_trace(path), run


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("gpt") / "trace.json"
    run = simulate(gpt_bf16(), H100, path)
    return profile_trace(path), run


def of_class(profile: TraceProfile, class_: str) -> list[KernelGroup]:
    return [group for group in profile.kernels if group.class_ == class_ and not group.helper]


def per_layer(profile: TraceProfile, class_: str) -> Counter[str]:
    """Launches in a step by layer."""
    found: Counter[str] = Counter()
    for group in of_class(profile, class_):
        assert group.operation is not None
        found[profile.operations[group.operation].layer] += group.count // profile.steps.count
    return found


def line(profile: TraceProfile, kind: str) -> BillLine | None:
    return next((each for each in profile.bill.lines if each.kind == kind), None)


@pytest.mark.parametrize("name", ["resnet", "gpt"])
def test_kernel_time_is_that_of_all_kernels_and_every_kernel_is_counted(
    name: str, request: pytest.FixtureRequest
) -> None:
    profile, run = request.getfixturevalue(name)
    kernels = [kernel for kernel, _ in run.kernels if kernel.copied is None]
    assert profile.kernel_time_s == pytest.approx(sum(kernel.us for kernel in kernels) * 1e-6, abs=1e-9 * len(kernels))
    assert profile.kernels_launched == len(kernels)
    assert sum(profile.class_s.values()) == pytest.approx(profile.kernel_time_s)
    on_tensor_cores = sum(kernel.us for kernel in kernels if any(part in kernel.name for part in PRODUCTS))
    assert profile.tensor_core_time_s == pytest.approx(on_tensor_cores * 1e-6, rel=1e-6)
    assert all(group.occupancy_agrees is not False for group in profile.kernels)


def test_resnet_has_its_layers_passes_batch_and_precision(resnet: Run) -> None:
    profile, _ = resnet
    stride_1 = {"conv 64>64 3x3 on 56x56": 4, "conv 128>128 3x3 on 28x28": 3, "conv 256>256 3x3 on 14x14": 3,
                "conv 512>512 3x3 on 7x7": 3}  # fmt: skip
    stride_2 = {
        f"conv {c}>{2 * c} {k}/2 on {s}x{s}": 1 for c, s in ((64, 56), (128, 28), (256, 14)) for k in ("3x3", "1x1")
    }
    stem = {"conv 3>64 7x7/2 on 224x224": 1}
    assert per_layer(profile, "fprop") == per_layer(profile, "wgrad") == stride_1 | stride_2 | stem
    assert per_layer(profile, "dgrad") == stride_1 | stride_2
    norms = {"batch_norm 64 on 112x112": 2, "batch_norm 64 on 56x56": 8, "batch_norm 128 on 28x28": 10,
             "batch_norm 256 on 14x14": 10, "batch_norm 512 on 7x7": 10}  # fmt: skip
    assert per_layer(profile, "normalisation") == norms  # forward and backward
    assert per_layer(profile, "gemm") == {"linear 512>1001": 3}
    assert profile.batch.batch == 256
    assert (profile.steps.count, profile.steps.found_by) == (2, "ProfilerStep")
    assert profile.precision == "fp16 AMP"


def test_resnet_under_amp_is_billed_for_its_1001_classes_and_not_for_tensor_cores(resnet: Run) -> None:
    profile, _ = resnet
    assert line(profile, "tensor_cores") is None
    aligned = line(profile, "alignment")
    assert aligned is not None and "1001 to 1008" in aligned.todo
    assert all("linear 512>1001" in item for item in aligned.items)


def test_gpt_has_its_attention_embeddings_and_batch(gpt: Run) -> None:
    profile, _ = gpt
    attention = of_class(profile, "attention")
    products = [profile.operations[group.operation].product for group in attention if group.operation is not None]
    assert {group.phase for group in attention} == {"forward", "backward"}
    for product in products:
        assert product is not None and product.attention == {
            "batch": 16, "heads": 12, "q_len": 1024, "kv_len": 1024, "head_dim": 64, "value_dim": 64, "causal": 1,
        }  # fmt: skip
    scores = 16 * 12 * 1024 * 1024 * 64
    assert {product.flops for product in products if product} == {4 * scores, 10 * scores}
    assert per_layer(profile, "attention") == {"attention 12 heads x 64, 1024 x 1024 causal": 4}
    assert profile.batch.batch == 16
    assert profile.precision == "bf16 AMP"
    assert len(of_class(profile, "embedding")) >= 4


def test_gpt_products_belong_to_their_layers_in_all_passes(gpt: Run) -> None:
    profile, _ = gpt
    layers = ("768>2304", "768>768", "768>3072", "3072>768")
    assert per_layer(profile, "gemm") == {f"linear {layer}": 6 for layer in layers} | {"linear 768>50257": 3}
    for group in of_class(profile, "gemm"):
        product = profile.operations[group.operation or 0].product
        assert product is not None and product.pass_ is not None
        m, n, k = product.m, product.n, product.k
        assert {"fprop": m, "dgrad": m, "wgrad": k}[product.pass_] == 16384, (product.pass_, m, n, k)


def test_persistent_kernels_of_gpt_are_not_blamed_for_waves(gpt: Run) -> None:
    profile, _ = gpt
    persistent = [group for group in profile.kernels if group.name.startswith("nvjet")]
    assert persistent and all(group.persistent for group in persistent if (group.ctas or 0) >= 132)


def test_gpt_is_billed_for_its_odd_vocabulary(gpt: Run) -> None:
    profile, _ = gpt
    aligned = line(profile, "alignment")
    assert aligned is not None and aligned.lost_s > 1e-3
    assert "50257 to 50264" in aligned.todo
    assert all("linear 768>50257" in item for item in aligned.items)
    assert line(profile, "tensor_cores") is None
