"""From the operations of a trace to a workload: the same records that the step-time model predicts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from advisor.convolution_time import convolution_op, tensor_sizes
from advisor.profiling.advice.scaling import Scaling
from advisor.profiling.advice.traffic import memory_facts
from advisor.profiling.bill.timing import attention_bytes
from advisor.profiling.records import Operation, Product
from advisor.workload.catalogue import LARGEST_SIZE
from advisor.workload.schema import Affine, Op

_Facts = dict[str, Any]
_TRANSPOSED = {"fprop": (0, 1), "dgrad": (0, 0), "wgrad": (1, 0)}  # operands of a linear layer, weights stored n x k


def op_of(operation: Operation, batch: int | None, scaling: Scaling | None = None, *, kernels: int = 1) -> Op | None:
    """A traced operation as the step-time model knows it, every size a + b*B; exact at the traced batch.

    None where the trace has neither a product nor shapes, or the operator is a library's of which nobody knows what it
    reads and writes. `batch` None: nothing is taken to grow. `scaling` brings the shapes of the parameters, which
    settle what sizes alone leave open. `kernels`: launched by one call.
    """
    if operation.product is None and not (any(operation.dims) and operation.name.startswith("aten::")):
        return None
    scaling = scaling or Scaling(batch or 1)
    at = _facts_of(operation, scaling)
    here = at(scaling.batch)
    twice = at(2 * scaling.batch) if batch is not None else here
    if max(twice["read_bytes"], twice["write_bytes"]) > LARGEST_SIZE * scaling.batch:
        return None  # damage

    def line(here: int, twice: int) -> Affine:
        growth = (twice - here) // scaling.batch
        return here - growth * scaling.batch, growth

    return Op(
        kind=here["kind"],
        name=here["name"],
        phase="forward" if operation.phase == "forward" else "backward",
        dtype=here["dtype"],
        read_bytes=line(here["read_bytes"], twice["read_bytes"]),
        write_bytes=line(here["write_bytes"], twice["write_bytes"]),
        flops=line(here.get("flops", 0), twice.get("flops", 0)),
        dims={key: line(value, twice["dims"][key]) for key, value in here.get("dims", {}).items()},
        kernels=kernels,
    )


def _facts_of(operation: Operation, scaling: Scaling) -> Callable[[int], _Facts]:
    """A function from a batch size to what the operation would be there."""
    product = operation.product
    if product is None:
        return lambda batch: memory_facts(operation, scaling.grown_shapes(operation, batch))
    if product.kind == "attention" and product.attention is not None:
        return lambda batch: _attention(operation, product, scaling, batch)
    if product.convolution is not None and product.pass_ is not None:
        return _convolution(product, scaling)
    return lambda batch: _matrix_product(operation, product, scaling, batch)


def _convolution(product: Product, scaling: Scaling) -> Callable[[int], _Facts]:
    conv, pass_ = product.convolution, product.pass_
    assert conv is not None and pass_ is not None
    op = convolution_op(conv, pass_, precision=_half(product.dtype))
    samples, item = int(conv.batch), 2 if op.dtype == "fp16" else 4
    weight = item * tensor_sizes(conv)[2]  # is read but for wgrad, which writes it; all else grows
    read, written = (0, weight) if pass_ == "wgrad" else (weight, 0)
    dims = {name: size for name, (size, _) in op.dims.items()}

    def at(batch: int) -> _Facts:
        n = scaling.grown_size(samples, batch)

        def grown(bytes_: int, fixed: int) -> int:
            return ((bytes_ - fixed) * n // samples + fixed) // item * product.element_bytes

        return {
            "kind": op.kind,
            "name": "convolution" if pass_ == "fprop" else "convolution_backward",
            "dtype": _half(product.dtype),
            "read_bytes": grown(op.read_bytes[0], read),
            "write_bytes": grown(op.write_bytes[0], written),
            "flops": op.flops[0] * n // samples,
            "dims": {**dims, "n": n},
        }

    return at


def _matrix_product(operation: Operation, product: Product, scaling: Scaling, batch: int) -> _Facts:
    sizes = {"m": product.m, "n": product.n, "k": product.k, "batch": product.batch}
    axis = _growing_axis(operation, product, scaling)
    if axis is not None:
        sizes[axis] = scaling.grown_size(sizes[axis], batch)
    m, n, k, many = sizes["m"], sizes["n"], sizes["k"], sizes["batch"]
    batched = product.kind == "bmm" or many > 1
    a_t, b_t = _TRANSPOSED[product.pass_ or "dgrad"] if product.kind == "gemm" else (0, 0)
    dims = {"m": m, "n": n, "k": k, "a_t": a_t, "b_t": b_t}
    return {
        "kind": "bmm" if batched else "gemm",
        "name": "bmm" if batched else "mm",
        "dtype": _half(product.dtype),
        "read_bytes": many * (m * k + k * n) * product.element_bytes,
        "write_bytes": many * m * n * product.element_bytes,
        "flops": 2 * many * m * n * k,
        "dims": {"batch": many, **dims} if batched else dims,
    }


def _growing_axis(operation: Operation, product: Product, scaling: Scaling) -> str | None:
    if operation.phase == "optimizer":
        return None
    if product.kind == "conv":  # in three dimensions, which are kept as one matrix product
        return "k" if product.pass_ == "wgrad" else "m"
    return scaling.product_axis(product, operation.phase)


def _attention(operation: Operation, product: Product, scaling: Scaling, batch: int) -> _Facts:
    """A call of fused attention: two products forward, five backward."""
    dims = dict(product.attention or {})
    dims["batch"] = scaling.grown_size(dims["batch"], batch)
    backward = product.pass_ != "fprop"
    heads = dims["batch"] * dims["heads"]
    read, written = attention_bytes(dims, product.element_bytes, backward=backward)
    flops = 2 * heads * dims["q_len"] * dims["kv_len"]
    width = dims["head_dim"] + dims["value_dim"]
    return {
        "kind": "attention_bprop" if backward else "attention_fprop",
        "name": operation.name.rpartition("::")[2],
        "dtype": _half(product.dtype),
        "read_bytes": read,
        "write_bytes": written,
        "flops": flops * (2 * width + dims["head_dim"] if backward else width),
        "dims": dims,
    }


def _half(dtype: str) -> str:
    """Element type as workloads name it: FP16 stands for BF16, and for the 8-bit types, which they do not know."""
    return "fp16" if dtype in ("bf16", "fp8", "int8") else dtype
