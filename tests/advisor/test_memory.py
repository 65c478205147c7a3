import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.gpus import find_gpu
from advisor.memory import default_margin, envelope, largest_batch, memory_curve, usable_memory_bytes
from advisor.profile import load_profile
from advisor.recipe import RECIPES, Recipe, make_recipe
from advisor.step_profile import load_step_profile
from advisor.workload.catalogue import load_workload
from advisor.workload.schema import Variant, Workload

GPU = find_gpu("rtx-3090")
GIB = 2**30
PARTS = (
    "parameters_bytes", "buffers_bytes", "gradients_bytes", "optimizer_state_bytes", "live_peak_bytes",
    "workspace_bytes", "reserved_bytes", "context_bytes", "first_step_spike_bytes",
)  # fmt: skip


def tiny(live: tuple[tuple[int, int], ...], with_gradients: tuple[tuple[int, int], ...] = ()) -> Workload:
    variant = Variant("train", "amp", "nhwc", "none", (), live, with_gradients)
    return Workload(
        schema_version=1, name="tiny", title="tiny", task="", origin="", input_shape=(3, 8, 8), parameters=1_000_000,
        parameter_tensors=4, trainable_parameters=1_000_000, buffer_bytes=512, batch_norm_layers=0, layer_names=(),
        variants=(variant,), largest_parameter=600_000,
    )  # fmt: skip


def curve(workload: Workload, recipe: Recipe, batches: list[int], **more: object):
    return memory_curve(workload, gpu=GPU, profile=None, recipe=recipe, batches=np.array(batches), **more)


def test_a_step_of_sgd_by_hand() -> None:
    known = load_step_profile().memory
    m = curve(tiny(((10_000, 2_000_000),)), RECIPES["timm-2022"], [1, 10])
    assert m.parameters_bytes.tolist() == [4_000_000] * 2
    assert m.gradients_bytes.tolist() == [4_000_000] * 2  # kept from step to step
    assert m.optimizer_state_bytes.tolist() == [4_000_000] * 2  # momentum
    assert m.live_peak_bytes.tolist() == [2_010_000, 20_010_000]
    assert m.reserved_bytes.tolist() == [round(known.allocator_share * b) for b in (2_010_000, 20_010_000)]


def test_gradients_that_are_freed_count_in_the_live_peak() -> None:
    workload = tiny(((0, 1000),), ((4_000_000, 900),))
    freed = curve(workload, make_recipe(), [100])
    assert (freed.gradients_bytes[0], freed.live_peak_bytes[0]) == (0, 4_090_000)
    kept = curve(workload, make_recipe(), [100], accumulate=True)
    assert (kept.gradients_bytes[0], kept.live_peak_bytes[0]) == (4_000_000, 100_000)


def test_adams_temporaries_are_a_peak_of_their_own() -> None:
    workload = tiny(((0, 1),), ((0, 1),))
    by_tensors = curve(workload, make_recipe(optimizer="adamw"), [1])
    assert by_tensors.optimizer_state_bytes[0] == 8_000_000
    assert by_tensors.live_peak_bytes[0] == 8_000_000  # gradients, and one temporary of all parameters
    looped = curve(workload, make_recipe("timm-2022", optimizer="adam"), [1])
    assert looped.live_peak_bytes[0] == 4 * 600_000  # one temporary of the largest tensor


def test_several_gpus_add_their_buckets() -> None:
    alone, two = (curve(tiny(((0, 9),)), make_recipe(), [8], gpus=n) for n in (1, 2))
    assert two.total_bytes[0] - alone.total_bytes[0] == 4 * 1_000_000


def test_inference_holds_weights_and_activations_only() -> None:
    m = curve(load_workload("resnet50"), make_recipe(mode="infer"), [256])
    assert m.gradients_bytes[0] == m.optimizer_state_bytes[0] == 0
    assert m.total_bytes[0] < 0.4 * curve(load_workload("resnet50"), make_recipe(), [256]).total_bytes[0]


@pytest.mark.parametrize("name", ["resnet50", "vit_b_16", "bert-large-512"])
@pytest.mark.parametrize("recipe", ["default", "timm-2022"])
def test_the_parts_sum_to_the_total(name: str, recipe: str) -> None:
    m = curve(load_workload(name), RECIPES[recipe], [1, 5, 64, 1024])
    assert np.array_equal(sum(getattr(m, part) for part in PARTS), m.total_bytes)
    assert np.all(np.diff(m.total_bytes) > 0)
    assert np.all(m.allocated_bytes < m.total_bytes)


def test_public_experience_of_a_24_gb_card() -> None:
    """timm's table of July 2022: ViT-B/16 holds 192 and not 256, ResNet-101 256 and not 384, ResNet-50 256."""
    limit = usable_memory_bytes(GPU)
    assert limit is not None

    def fits(name: str, batch: int) -> bool:
        return bool(curve(load_workload(name), RECIPES["timm-2022"], [batch]).total_bytes[0] <= limit)

    assert fits("vit_b_16", 192)
    assert not fits("vit_b_16", 256)
    assert fits("resnet101", 256)
    assert not fits("resnet101", 384)
    assert fits("resnet50", 256)


@settings(max_examples=25, deadline=None)
@given(limit_gib=st.floats(2, 200), margin=st.floats(0, 0.3))
def test_the_largest_batch_fits_and_the_next_does_not(limit_gib: float, margin: float) -> None:
    workload, recipe, limit = load_workload("resnet18"), make_recipe(), round(limit_gib * GIB)
    best = largest_batch(workload, gpu=GPU, profile=None, recipe=recipe, limit_bytes=limit, margin=margin)
    totals = curve(workload, recipe, [max(1, best), best + 1]).total_bytes * (1 + margin)
    assert best == 0 or totals[0] <= limit
    assert totals[1] > limit


def test_the_envelope_is_the_highest_line() -> None:
    assert envelope(((100, 1), (0, 3)), np.array([1, 50, 51])).tolist() == [101, 150, 153]


def test_the_default_margin_covers_the_tail_of_the_memory_error() -> None:
    known = load_step_profile().memory
    assert default_margin(load_profile(GPU)) == known.margin
    assert np.exp(2.17 * known.log_error) - 1 <= known.margin <= 0.2
