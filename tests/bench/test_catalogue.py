"""The catalogue's builder: the same bytes again, and FLOPs and parameters as PyTorch counts them."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from advisor.workload.catalogue import CATALOGUE, encode_workload, load_workload  # noqa: E402
from advisor.workload.sources import declare_torchvision_operators  # noqa: E402
from bench.catalogue import NAMES, build, unet_source  # noqa: E402


@pytest.fixture(scope="module")
def definitions() -> None:
    pytest.importorskip("transformers")
    try:
        version("torchvision")
    except Exception:
        pytest.skip("torchvision is not installed")
    declare_torchvision_operators()


def pinned(library: str) -> None:
    """Skip where another version than the catalogue's is installed: its definitions may differ."""
    shipped = {w.origin.split(",")[0] for w in map(load_workload, NAMES)}
    if f"{library} {version(library)}" not in shipped or not torch.__version__.startswith("2.13"):
        pytest.skip(f"the catalogue was not built with {library} {version(library)} and torch {torch.__version__}")


def test_every_name_is_shipped_and_nothing_else() -> None:
    assert sorted(NAMES) == sorted(path.stem for path in CATALOGUE.glob("*.json"))


@pytest.mark.usefixtures("definitions")
def test_building_again_gives_the_same_bytes() -> None:
    pinned("torchvision")
    assert encode_workload(build("resnet18")) == (CATALOGUE / "resnet18.json").read_bytes()


def test_the_unet_is_the_papers() -> None:
    module = unet_source().module
    assert sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3) for m in module.modules()) == 18
    assert len([m for m in module.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))]) == 23
    out = module(torch.empty(1, 1, 64, 64, device="meta"))
    assert out.shape == (1, 2, 64, 64)


def counted(module: Any, *args: Any, **kwargs: Any) -> tuple[int, int]:
    """(forward, forward and backward) FLOPs by PyTorch's own counter, on the meta device."""
    with FlopCounterMode(display=False) as forward:
        output = module(*args, **kwargs)
    with FlopCounterMode(display=False) as backward:
        loss = output.loss if hasattr(output, "loss") else output.float().sum()
        loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.usefixtures("definitions")
@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "mobilenet_v2", "convnext_tiny", "vgg16"])
def test_flops_of_a_convolutional_network_are_those_of_the_flop_counter(name: str) -> None:
    import torchvision.models

    with torch.device("meta"):
        module, x = torchvision.models.get_model(name), torch.empty(2, 3, 224, 224)
    forward, backward = counted(module, x)
    ops = load_workload(name).variants[0].ops
    ours = {
        p: sum(op.count * (op.flops[0] + 2 * op.flops[1]) for op in ops if op.phase == p)
        for p in ("forward", "backward")
    }
    assert ours["forward"] == pytest.approx(forward, rel=1e-3)
    # The counter of PyTorch 2.13 counts a grouped convolution's weight gradient `groups` times over.
    surplus = sum(op.count * 2 * op.flops[1] * (op.dims["groups"][0] - 1) for op in ops if op.kind == "conv_wgrad")
    assert ours["backward"] + surplus == pytest.approx(backward, rel=1e-3)
    assert load_workload(name).parameters == sum(p.numel() for p in module.parameters())


@pytest.mark.usefixtures("definitions")
def test_flops_of_a_transformer_are_those_of_the_flop_counter() -> None:
    import torchvision.models

    with torch.device("meta"):
        module, x = torchvision.models.vit_b_16(), torch.empty(2, 3, 224, 224)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        forward, backward = counted(module, x)
    unfused = next(v for v in load_workload("vit_b_16").variants if v.attention == "unfused" and v.mode == "train")
    ours = [
        sum(op.count * 2 * op.flops[1] + op.count * op.flops[0] for op in unfused.ops if op.phase == p)
        for p in ("forward", "backward")
    ]
    assert ours == [pytest.approx(forward, rel=1e-3), pytest.approx(backward, rel=1e-3)]


@pytest.mark.usefixtures("definitions")
def test_flops_of_a_language_model_are_those_of_the_flop_counter() -> None:
    import transformers

    with torch.device("meta"):
        module = transformers.BertForMaskedLM(transformers.BertConfig(attn_implementation="eager"))
        tokens = torch.zeros(2, 128, dtype=torch.int64)
        forward, backward = counted(module, input_ids=tokens, labels=tokens)
    workload = load_workload("bert-base-128")
    unfused = next(v for v in workload.variants if v.attention == "unfused" and v.mode == "train")
    ours = [
        sum(op.count * (op.flops[0] + 2 * op.flops[1]) for op in unfused.ops if op.phase == p)
        for p in ("forward", "backward")
    ]
    assert ours == [pytest.approx(forward, rel=1e-3), pytest.approx(backward, rel=1e-3)]
    assert workload.parameters == sum(p.numel() for p in module.parameters())
