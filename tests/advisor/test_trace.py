"""The tracer against hand-worked sizes and PyTorch's own FLOP counter."""

from __future__ import annotations

import threading
from typing import Literal

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from advisor.errors import BadInputError, TraceError  # noqa: E402
from advisor.workload import Op, Workload  # noqa: E402
from advisor.workload.trace import VariantSpec, _rounded, _upper, trace_module  # noqa: E402


def ops_of(workload: Workload, kind: str, variant: int = 0) -> list[Op]:
    return [op for op in workload.variants[variant].ops if op.kind == kind]


def dims(op: Op, batch: int) -> dict[str, int]:
    return {name: a + b * batch for name, (a, b) in op.dims.items()}


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 3, padding=1, groups=4), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.1), nn.Linear(32, 10),
    )  # fmt: skip


def test_a_linear_layer_gives_its_three_products_with_the_batch_in_the_right_place() -> None:
    workload = trace_module(nn.Linear(24, 40), (24,), name="linear")
    forward, *backward = ops_of(workload, "gemm")
    assert dims(forward, 7) == {"m": 7, "n": 40, "k": 24, "a_t": 0, "b_t": 1}
    # the input needs no gradient, so only the weight's is left: [40, 24] = dY^T [40, B] X [B, 24]
    assert [dims(op, 7) for op in backward] == [{"m": 40, "n": 24, "k": 7, "a_t": 1, "b_t": 0}]
    assert forward.flops == (0, 2 * 24 * 40) and forward.dtype == "fp16"
    assert forward.read_bytes == (2 * (40 * 24 + 40), 2 * 24) and forward.write_bytes == (0, 2 * 40)


def test_a_convolution_has_three_passes_and_the_first_no_data_gradient() -> None:
    workload = trace_module(small_cnn(), (3, 32, 32), name="cnn")
    fprop, dgrad, wgrad = (ops_of(workload, f"conv_{p}") for p in ("fprop", "dgrad", "wgrad"))
    assert (len(fprop), len(dgrad), len(wgrad)) == (2, 1, 2)
    assert dims(fprop[0], 5) == {"n": 5, "c": 3, "h": 32, "w": 32, "k": 16, "p": 16, "q": 16, "r": 3, "s": 3,
                                 "stride_h": 2, "stride_w": 2, "pad_h": 1, "pad_w": 1, "dilation_h": 1,
                                 "dilation_w": 1, "groups": 1}  # fmt: skip
    assert dims(dgrad[0], 5)["groups"] == 4
    grouped = 2 * 16 * 16 * 32 * (16 // 4) * 9
    assert {op.flops for op in (fprop[1], dgrad[0], wgrad[0])} == {(0, grouped)}


def test_a_transposed_convolution_runs_as_a_data_gradient_and_back_as_a_forward_pass() -> None:
    module = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ConvTranspose2d(8, 6, 2, 2))
    workload = trace_module(module, (4, 10, 10), name="up")
    (up,) = ops_of(workload, "conv_dgrad")[:1]
    assert up.phase == "forward"
    assert {k: dims(up, 3)[k] for k in "nchwkpqrs"} == {"n": 3, "c": 6, "h": 20, "w": 20, "k": 8, "p": 10, "q": 10,
                                                        "r": 2, "s": 2}  # fmt: skip
    assert [op.phase for op in ops_of(workload, "conv_fprop")] == ["forward", "backward"]


class _Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1024, 4096, bias=False), nn.Linear(4096, 1024, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(F.gelu(self.first(x)))


def test_live_memory_of_a_two_layer_perceptron_is_the_one_worked_by_hand() -> None:
    workload = trace_module(_Mlp(), (1024,), name="mlp", loss=lambda output, batch: output.sum())
    variant = workload.variants[0]
    # Saved: the input's FP16 cast, the FP16 cast of the second weight (the first one's is needed for no gradient),
    # the FP16 output of the first layer and of GELU; beside them the input, the output, and the loss, one block.
    cast = 2 * 1024 * 4096
    saved = (4 + 2) * 1024 + 2 * 4096 + 2 * 4096 + 2 * 1024
    assert variant.saved[1] == saved
    assert variant.saved[0] == cast + 512
    # The largest moment at large B: the gradients of GELU's result and of its input exist together with all saved.
    assert variant.live[-1][1] >= saved + 2 * 4096
    # At B = 1 the weights' gradients rule: with them counted from birth, both FP32 gradients are there at the end.
    small = max(a + b for a, b in variant.live_with_gradients)
    assert small >= 2 * 4 * 1024 * 4096


def test_storages_are_counted_in_blocks_of_512_bytes() -> None:
    assert _rounded((4, 0)) == (512, 0) and _rounded((513, 0)) == (1024, 0)
    assert _rounded((100, 1024)) == (512, 1024)
    a, b = _rounded((0, 12))  # 12 bytes a sample: never below the blocks that are taken
    assert all(a + b * batch >= -(-12 * batch // 512) * 512 for batch in range(1, 200))


def test_the_envelope_keeps_only_lines_that_are_highest_somewhere() -> None:
    assert _upper({(100, 1), (90, 2), (0, 3), (50, 1), (0, 1)}) == ((100, 1), (90, 2), (0, 3))
    lines = {(100, 1), (60, 3), (0, 10), (99, 2)}
    envelope = _upper(lines)
    for batch in (1, 2, 3, 10, 1000):
        assert max(a + b * batch for a, b in envelope) == max(a + b * batch for a, b in lines)


def test_two_traces_agree_to_the_last_byte() -> None:
    module = small_cnn()
    assert trace_module(module, (3, 32, 32), name="cnn") == trace_module(module, (3, 32, 32), name="cnn")


def layout_changes(module: nn.Module, layout: Literal["nhwc", "nchw"]) -> list[str]:
    workload = trace_module(
        module, (8, 12, 12), name="stack", variants=[VariantSpec(layout=layout)], loss=lambda out, _: out.float().sum()
    )
    return [op.name for op in ops_of(workload, "copy") if op.name in ("contiguous", "clone") and op.phase == "forward"]


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_a_plain_stack_of_convolutions_keeps_its_layout(layout: Literal["nhwc", "nchw"]) -> None:
    module = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 8, 3))
    assert layout_changes(module, layout) == []


def test_group_norm_leaves_channels_last_as_on_cuda() -> None:
    module = nn.Sequential(nn.Conv2d(8, 16, 3), nn.GroupNorm(4, 16), nn.Conv2d(16, 8, 3))
    assert layout_changes(module, "nhwc") == [
        "clone",
        "contiguous",
    ]  # into group norm, and back for the second convolution


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(64, 192)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(x).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def test_attention_is_one_operation_when_fused_and_its_parts_when_not() -> None:
    specs = [VariantSpec(attention="fused"), VariantSpec(attention="unfused")]
    workload = trace_module(_Attention(), (10, 64), name="attention", variants=specs, loss=lambda out, _: out.sum())
    fused, unfused = workload.variants
    (forward,) = ops_of(workload, "attention_fprop")
    assert dims(forward, 3) == {"batch": 3, "heads": 4, "q_len": 10, "kv_len": 10, "head_dim": 16, "value_dim": 16,
                                "causal": 0}  # fmt: skip
    assert forward.flops == (0, 4 * 4 * 10 * 10 * 16)
    (backward,) = ops_of(workload, "attention_bprop")
    assert backward.flops[1] == 5 * 2 * 4 * 10 * 10 * 16
    assert (fused.attention, unfused.attention) == ("fused", "unfused")
    assert not any(op.kind == "bmm" for op in fused.ops)
    products = [op for op in unfused.ops if op.kind == "bmm"]
    assert sum(op.count for op in products) == 6  # two forward, four backward
    softmax = next(op for op in unfused.ops if op.name == "_softmax")
    assert (softmax.read_bytes[1], softmax.write_bytes[1]) == (2 * 4 * 100, 4 * 4 * 100)  # FP16 in, FP32 out


def test_dropout_is_one_kernel_that_keeps_a_mask_of_one_byte() -> None:
    workload = trace_module(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), (8,), name="dropout")
    (forward,) = [op for op in ops_of(workload, "elementwise") if op.name == "native_dropout"]
    assert forward.write_bytes == (0, 8 * (2 + 1))


def test_weight_casts_are_made_once_for_a_layer_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    workload = trace_module(Twice(), (16,), name="twice")
    casts = [op for op in ops_of(workload, "copy") if op.phase == "forward" and op.read_bytes == (4 * 16 * 16, 0)]
    assert sum(op.count for op in casts) == 1


def test_the_module_is_left_as_it_was() -> None:
    module = small_cnn().eval()
    before = {k: (v.data_ptr(), v.clone()) for k, v in module.state_dict().items()}
    trace_module(module, (3, 32, 32), name="cnn")
    after = module.state_dict()
    assert all(after[k].data_ptr() == p and torch.equal(after[k], v) for k, (p, v) in before.items())
    assert not module.training and all(p.grad is None and type(p) is nn.Parameter for p in module.parameters())
    assert not torch.is_autocast_enabled("cpu") and not torch.is_autocast_enabled("cuda")
    module(torch.zeros(1, 3, 32, 32))


def test_inference_has_a_forward_pass_alone_and_keeps_little() -> None:
    specs = [VariantSpec(), VariantSpec(mode="infer")]
    train, infer = trace_module(small_cnn(), (3, 32, 32), name="cnn", variants=specs).variants
    assert {op.phase for op in infer.ops} == {"forward"}
    assert infer.live[-1][1] < train.live[-1][1]


class _Gram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.embed(x)
        return y @ y.t()  # B x B


def test_a_product_of_the_batch_with_itself_is_refused_by_name() -> None:
    with pytest.raises(TraceError, match=r"mm in the top module.*a \+ b\*B"):
        trace_module(_Gram(), (8,), name="gram", loss=lambda out, _: out.sum())


def test_a_branch_on_data_is_refused_with_a_cure() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            return y * 2 if y.sum().item() > 0 else y

    with pytest.raises(TraceError, match=r"'branch' cannot be traced.*sum in.*\.item\(\)"):
        trace_module(Branch(), (4,), name="branch")


def test_a_wrong_input_shape_is_refused_by_the_layer_that_finds_it() -> None:
    with pytest.raises(TraceError, match="cannot be traced at batch 2"):
        trace_module(small_cnn(), (4, 32, 32), name="cnn")
    with pytest.raises(BadInputError, match="3, 224, 224"):
        trace_module(small_cnn(), (0, 32, 32), name="cnn")


def test_checkpointed_layers_run_again_in_the_backward_pass() -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16)), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(checkpoint(self.body, x, use_reentrant=False))

    workload = trace_module(Checkpointed(), (16,), name="checkpointed")
    again = [op for op in ops_of(workload, "gemm") if op.name == "addmm" and op.phase == "backward"]
    assert sum(op.count for op in again) >= 1


def test_a_recurrent_layer_is_one_cudnn_call_with_the_flops_of_its_gates() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(8, 16, batch_first=True, bidirectional=True), nn.Linear(32, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    workload = trace_module(Recurrent(), (5, 8), name="lstm")
    gates = [op for op in ops_of(workload, "gemm") if op.name == "_cudnn_rnn"]
    assert sum(op.count * op.flops[1] for op in gates) == 2 * 5 * 2 * 4 * 16 * (8 + 16)


def test_other_threads_autocast_is_left_alone() -> None:
    seen: list[torch.dtype] = []

    def watch() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            seen.append(torch.softmax(torch.ones(2, 2, dtype=torch.bfloat16), -1).dtype)

    class Waits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            thread = threading.Thread(target=watch)
            thread.start()
            thread.join()
            return self.layer(x)

    trace_module(Waits(), (4,), name="waits")
    assert set(seen) == {torch.bfloat16}


def _counted_flops(module: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        output = module(x)
        F.cross_entropy(output, torch.zeros(len(x), dtype=torch.int64)).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("grouped", [False, True])
def test_flops_are_those_of_the_flop_counter(grouped: bool) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 5, padding=2, groups=4 if grouped else 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    batch = 6
    counted = _counted_flops(module, torch.zeros(batch, 3, 33, 33))
    ops = trace_module(module, (3, 33, 33), name="net").variants[0].ops
    ours = sum(op.count * (op.flops[0] + op.flops[1] * batch) for op in ops)
    if grouped:  # the counter takes a grouped weight gradient for an ungrouped one
        (wgrad,) = [op for op in ops if op.kind == "conv_wgrad" and op.dims["groups"] == (4, 0)]
        ours += 3 * wgrad.flops[1] * batch
    assert ours == counted
