from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the models are torch modules")

from advisor.memory import envelope  # noqa: E402
from advisor.workload.catalogue import load_workload  # noqa: E402
from advisor.workload.trace import VariantSpec, trace_module  # noqa: E402
from bench.models import MODELS, build, loss_of, make_batch  # noqa: E402


def counted(variant: Any) -> Counter[Any]:
    """Operations of a step without the layers they are in, which are named otherwise."""
    found: Counter[Any] = Counter()
    for op in variant.ops:
        dims = tuple(sorted(op.dims.items()))
        found[op.kind, op.name, op.phase, op.dtype, op.read_bytes, op.write_bytes, op.flops, dims, op.kernels] += (
            op.count
        )
    return found


@pytest.mark.parametrize("name", MODELS)
def test_a_model_runs_the_very_operations_of_its_catalogue_entry(name: str) -> None:
    with torch.device("meta"):
        module = build(name)
    model, shipped = MODELS[name], load_workload(name)
    spec = VariantSpec("train", "amp", "nhwc", "fused")
    traced = trace_module(
        module, model.input_shape, name=name, input_dtype="float32" if model.has_images else "int64", variants=[spec],
        verify=False,
    )  # fmt: skip
    variant = traced.variants[0]
    same = [v for v in shipped.variants if (v.mode, v.precision, v.layout, v.attention) == (
        "train", "amp", variant.layout, variant.attention)]  # fmt: skip
    assert traced.parameters == shipped.parameters
    assert traced.parameter_tensors == shipped.parameter_tensors
    assert traced.buffer_bytes == shipped.buffer_bytes
    assert counted(variant) == counted(same[0])
    batches = torch.tensor([1, 64, 257]).numpy()
    labels = 8 * model.input_shape[0] if model.target == "token" else 0  # of the catalogue's model, an input
    peaks = envelope(variant.live_with_gradients, batches) + labels * batches
    assert peaks == pytest.approx(envelope(same[0].live_with_gradients, batches), rel=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_small_model_learns_one_batch_by_heart(name: str) -> None:
    torch.manual_seed(0)
    module = build(name, small=True)
    numbers = torch.Generator().manual_seed(1)
    x, targets = make_batch(name, 4, device="cpu", generator=numbers, channels_last=False, small=True)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(module(x), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_images_lie_in_channels_last_memory_between_minus_one_and_one() -> None:
    numbers = torch.Generator().manual_seed(1)
    x, targets = make_batch("unet", 3, device="cpu", generator=numbers, channels_last=True, small=True)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert targets.shape == (3, 16, 16)
    assert -1 <= float(x.min()) < -0.9 < 0.9 < float(x.max()) <= 1


def test_tokens_have_a_target_each() -> None:
    numbers = torch.Generator().manual_seed(1)
    tokens, targets = make_batch("bert-base-128", 2, device="cpu", generator=numbers, channels_last=True)
    assert tokens.shape == targets.shape == (2, 128)
    assert 0 <= int(tokens.min()) < int(tokens.max()) < 30522
