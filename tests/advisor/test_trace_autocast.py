"""CUDA's autocast lists, op by op, as documented in "Automatic Mixed Precision package", CUDA Op-Specific Behavior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from advisor.workload import cuda_rules  # noqa: E402
from advisor.workload.cuda_rules import CudaRules  # noqa: E402
from advisor.workload.trace import _autocast  # noqa: E402


def t(*shape: int, half: bool = False) -> Any:
    return torch.ones(shape, dtype=torch.float16 if half else torch.float32)


def h(*shape: int) -> Any:
    return t(*shape, half=True)


def run(call: Callable[[], Any]) -> Any:
    """The dtype of a call's result under CUDA's rules, on tensors that live nowhere."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, torch.backends.mkldnn.flags(enabled=False), CudaRules(amp=True, fused=True), _autocast(enabled=True):
        result = call()
    while isinstance(result, (tuple, list)):
        result = result[0]
    return result.dtype


FP16: dict[str, Callable[[], Any]] = {
    "__matmul__": lambda: t(2, 3) @ t(3, 2),
    "addbmm": lambda: torch.addbmm(t(2, 2), t(4, 2, 3), t(4, 3, 2)),
    "addmm": lambda: torch.addmm(t(2, 2), t(2, 3), t(3, 2)),
    "addmv": lambda: torch.addmv(t(2), t(2, 3), t(3)),
    "addr": lambda: torch.addr(t(2, 3), t(2), t(3)),
    "baddbmm": lambda: torch.baddbmm(t(4, 2, 2), t(4, 2, 3), t(4, 3, 2)),
    "bmm": lambda: torch.bmm(t(4, 2, 3), t(4, 3, 2)),
    "chain_matmul": lambda: torch.chain_matmul(t(2, 3), t(3, 4), t(4, 2)),
    "multi_dot": lambda: torch.linalg.multi_dot([t(2, 3), t(3, 4), t(4, 2)]),
    "conv1d": lambda: F.conv1d(t(1, 2, 8), t(3, 2, 3)),
    "conv2d": lambda: F.conv2d(t(1, 2, 8, 8), t(3, 2, 3, 3)),
    "conv3d": lambda: F.conv3d(t(1, 2, 8, 8, 8), t(3, 2, 3, 3, 3)),
    "conv_transpose1d": lambda: F.conv_transpose1d(t(1, 2, 8), t(2, 3, 3)),
    "conv_transpose2d": lambda: F.conv_transpose2d(t(1, 2, 8, 8), t(2, 3, 3, 3)),
    "conv_transpose3d": lambda: F.conv_transpose3d(t(1, 2, 8, 8, 8), t(2, 3, 3, 3, 3)),
    "GRUCell": lambda: torch.gru_cell(t(2, 3), t(2, 4), t(12, 3), t(12, 4), t(12), t(12)),
    "linear": lambda: F.linear(t(2, 3), t(4, 3), t(4)),
    "LSTMCell": lambda: torch.lstm_cell(t(2, 3), [t(2, 4), t(2, 4)], t(16, 3), t(16, 4), t(16), t(16)),
    "matmul": lambda: torch.matmul(t(4, 2, 3), t(3, 2)),
    "mm": lambda: torch.mm(t(2, 3), t(3, 2)),
    "mv": lambda: torch.mv(t(2, 3), t(3)),
    "prelu": lambda: F.prelu(t(2, 3), t(1)),
    "RNNCell": lambda: torch.rnn_tanh_cell(t(2, 3), t(2, 4), t(4, 3), t(4, 4), t(4), t(4)),
    "einsum": lambda: torch.einsum("bij,bjk->bik", t(2, 3, 4), t(2, 4, 5)),
    "scaled_dot_product_attention": lambda: F.scaled_dot_product_attention(t(1, 2, 4, 8), t(1, 2, 4, 8), t(1, 2, 4, 8)),
}
_labels = lambda: torch.zeros(3, dtype=torch.int64)  # noqa: E731
FP32: dict[str, Callable[[], Any]] = {
    "__pow__": lambda: h(2) ** 1.5,
    "__rdiv__": lambda: 1.0 / h(2),
    "__rpow__": lambda: 2.0 ** h(2),
    "__rtruediv__": lambda: h(2).__rtruediv__(1.0),
    "acos": lambda: torch.acos(h(2)),
    "asin": lambda: torch.asin(h(2)),
    "binary_cross_entropy_with_logits": lambda: F.binary_cross_entropy_with_logits(h(2), h(2)),
    "cosh": lambda: torch.cosh(h(2)),
    "cosine_embedding_loss": lambda: F.cosine_embedding_loss(h(3, 4), h(3, 4), h(3)),
    "cdist": lambda: torch.cdist(h(2, 3), h(2, 3)),
    "cosine_similarity": lambda: F.cosine_similarity(h(2, 3), h(2, 3)),
    "cross_entropy": lambda: F.cross_entropy(h(3, 4), _labels()),
    "cumprod": lambda: torch.cumprod(h(3), 0),
    "cumsum": lambda: torch.cumsum(h(3), 0),
    "dist": lambda: torch.dist(h(2), h(2)),
    "erfinv": lambda: torch.erfinv(h(2)),
    "exp": lambda: torch.exp(h(2)),
    "expm1": lambda: torch.expm1(h(2)),
    "group_norm": lambda: F.group_norm(h(2, 4, 3, 3), 2, t(4), t(4)),
    "hinge_embedding_loss": lambda: F.hinge_embedding_loss(h(3), h(3)),
    "kl_div": lambda: F.kl_div(h(3), h(3), reduction="batchmean"),
    "l1_loss": lambda: F.l1_loss(h(3), h(3)),
    "layer_norm": lambda: F.layer_norm(h(2, 4), (4,), t(4), t(4)),
    "log": lambda: torch.log(h(2)),
    "log_softmax": lambda: F.log_softmax(h(2, 3), 1),
    "log10": lambda: torch.log10(h(2)),
    "log1p": lambda: torch.log1p(h(2)),
    "log2": lambda: torch.log2(h(2)),
    "margin_ranking_loss": lambda: F.margin_ranking_loss(h(3), h(3), h(3)),
    "mse_loss": lambda: F.mse_loss(h(3), h(3)),
    "multilabel_margin_loss": lambda: F.multilabel_margin_loss(h(3, 4), torch.zeros(3, 4, dtype=torch.int64)),
    "multi_margin_loss": lambda: F.multi_margin_loss(h(3, 4), _labels()),
    "nll_loss": lambda: F.nll_loss(h(3, 4), _labels()),
    "norm": lambda: h(3).norm(),
    "normalize": lambda: F.normalize(h(2, 3)),
    "poisson_nll_loss": lambda: F.poisson_nll_loss(h(3), h(3)),
    "pow": lambda: torch.pow(h(2), 2),
    "prod": lambda: h(3).prod(),
    "reciprocal": lambda: torch.reciprocal(h(2)),
    "rms_norm": lambda: F.rms_norm(h(2, 4), (4,), t(4)),
    "rsqrt": lambda: torch.rsqrt(h(2)),
    "sinh": lambda: torch.sinh(h(2)),
    "smooth_l1_loss": lambda: F.smooth_l1_loss(h(3), h(3)),
    "soft_margin_loss": lambda: F.soft_margin_loss(h(3), h(3)),
    "softmax": lambda: F.softmax(h(2, 3), 1),
    "softmin": lambda: F.softmin(h(2, 3), 1),
    "softplus": lambda: F.softplus(h(2)),
    "sum": lambda: h(3).sum(),
    "renorm": lambda: torch.renorm(h(2, 3), 2, 0, 1.0),
    "tan": lambda: torch.tan(h(2)),
    "triplet_margin_loss": lambda: F.triplet_margin_loss(h(3, 4), h(3, 4), h(3, 4)),
    "interpolate": lambda: F.interpolate(h(1, 2, 4, 4), scale_factor=2, mode="bilinear"),
}
PROMOTE: dict[str, Callable[[Any, Any], Any]] = {
    "addcdiv": lambda a, b: torch.addcdiv(a, b, a),
    "addcmul": lambda a, b: torch.addcmul(a, b, a),
    "atan2": torch.atan2,
    "cat": lambda a, b: torch.cat([a, b]),
    "cross": lambda a, b: torch.cross(a, b, dim=0),
    "dot": torch.dot,
    "index_put": lambda a, b: a.index_put((torch.tensor([0]),), b[:1]),
    "scatter_add": lambda a, b: a.scatter_add(0, torch.tensor([0, 1, 2]), b),
    "stack": lambda a, b: torch.stack([a, b]),
    "tensordot": lambda a, b: torch.tensordot(a, b, 1),
    "bilinear": lambda a, b: F.bilinear(a.reshape(1, 3), b.reshape(1, 3), torch.ones(2, 3, 3, dtype=a.dtype)),
    "grid_sample": lambda a, b: F.grid_sample(
        a.reshape(1, 1, 1, 3), b[:2].reshape(1, 1, 1, 2), align_corners=False
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FP16)
def test_operators_of_the_fp16_list_run_in_fp16(name: str) -> None:
    assert run(FP16[name]) == torch.float16


@pytest.mark.parametrize("name", FP32)
def test_operators_of_the_fp32_list_run_in_fp32(name: str) -> None:
    assert run(FP32[name]) == torch.float32


@pytest.mark.parametrize("name", PROMOTE)
def test_operators_of_the_promote_list_take_the_widest_type(name: str) -> None:
    call = PROMOTE[name]
    assert run(lambda: call(h(3), t(3))) == torch.float32
    assert run(lambda: call(t(3), h(3))) == torch.float32
    assert run(lambda: call(h(3), h(3))) == torch.float16


@pytest.mark.parametrize(
    "call",
    [
        F.gelu, F.relu, F.silu, F.hardswish, torch.sigmoid, torch.tanh, F.dropout, torch.mean, torch.sqrt, torch.neg,
        lambda x: x + x, lambda x: F.max_pool2d(x, 2), lambda x: F.adaptive_avg_pool2d(x, 2),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda x: F.batch_norm(x, torch.zeros(2), torch.ones(2), torch.ones(2), torch.zeros(2), training=True),
    ],
)  # fmt: skip
def test_operators_of_no_list_keep_their_type(call: Callable[[Any], Any]) -> None:
    assert run(lambda: call(h(2, 2, 4, 4))) == torch.float16


def test_operators_on_the_cpus_fp32_list_alone_keep_fp16_as_on_cuda() -> None:
    assert run(lambda: F.avg_pool3d(h(1, 2, 4, 4, 4), 2)) == torch.float16
    assert run(lambda: F.max_pool3d(h(1, 2, 4, 4, 4), 2)) == torch.float16
    assert run(lambda: F.adaptive_max_pool3d(h(1, 2, 4, 4, 4), 2)) == torch.float16


def registered(backend: str) -> set[str]:
    """Operators that this PyTorch's autocast treats for a backend; CUDA's are registered in CPU builds, too."""
    names = torch._C._dispatch_get_registrations_for_dispatch_key(f"Autocast{backend}")
    return {name.removeprefix("aten::").split(".")[0] for name in names}


def test_every_operator_that_cudas_autocast_treats_is_on_a_list() -> None:
    lists = cuda_rules._FP16_NOT_ON_CPU | cuda_rules._FP32 | cuda_rules._FP32_OUTPUT | cuda_rules._PROMOTE
    other = {
        "softmax", "log_softmax", "_scaled_dot_product_flash_attention",  # have rules of their own
        "cudnn_convolution", "cudnn_convolution_transpose", "_thnn_fused_gru_cell", "_thnn_fused_lstm_cell",  # inside
    }  # fmt: skip
    assert registered("CUDA") - registered("CPU") - lists == other
    # Names of Python's own, and functions that consist of listed operators.
    aliases = {"__pow__", "__rpow__", "arccos", "arcsin", "linalg_cross", "linalg_norm", "multi_dot", "nll_loss_nd",
               "pairwise_distance", "square"}  # fmt: skip
    assert lists - registered("CUDA") <= aliases


def test_a_dtype_given_by_the_user_wins() -> None:
    assert run(lambda: h(3).sum(dtype=torch.float16)) == torch.float16
    assert run(lambda: F.softmax(h(2, 3), 1, dtype=torch.float16)) == torch.float16


def test_in_place_operators_are_not_cast() -> None:
    assert run(lambda: h(3).pow_(2)) == torch.float16


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_user_code_can_switch_autocast_off(device: str) -> None:
    def call() -> Any:
        with torch.autocast(device, enabled=False):
            return F.layer_norm(h(2, 4), (4,))

    assert run(call) == torch.float16


def test_inner_calls_of_pythons_own_composites_follow_the_rules() -> None:
    attention = torch.nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
    assert run(lambda: attention(t(2, 3, 8), t(2, 3, 8), t(2, 3, 8), need_weights=False)) == torch.float16
    assert run(lambda: torch.meshgrid(t(2), t(3), indexing="ij")) == torch.float32


def test_what_pytorch_writes_with_a_listed_operator_is_cast_as_it_is() -> None:
    assert run(lambda: h(3).square()) == torch.float32  # pow
    assert run(lambda: F.pairwise_distance(h(2, 3), h(2, 3))) == torch.float32  # norm
    assert run(lambda: torch.special.softmax(h(2, 3), 1)) == torch.float32
