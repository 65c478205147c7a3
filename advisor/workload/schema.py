"""What a workload file holds. Every size is affine in the batch size B: a + b*B, exact integers."""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA_VERSION = 1

Affine = tuple[int, int]
"""(a, b): the value a + b*B at batch size B."""

Kind = Literal[
    "gemm",  # one matrix product (linear layers, all three passes); dims m, n, k
    "bmm",  # a batch of them (unfused attention); dims batch, m, n, k
    "conv_fprop",  # dims n, c, h, w, k, p, q, r, s, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups
    "conv_dgrad",  # the same dims, those of the forward convolution
    "conv_wgrad",
    "attention_fprop",  # fused; dims batch, heads, q_len, kv_len, head_dim, value_dim, causal (0 or 1)
    "attention_bprop",
    "batch_norm",
    "norm",  # layer, group, RMS, instance
    "elementwise",  # activations, additions, dropout
    "softmax",
    "reduction",
    "pool",
    "embedding",  # gathers and their scatter-add gradients
    "copy",  # casts, layout changes, concatenations
    "loss",
    "other",
]


class Op(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One operation of the step, as often as it is launched with these very dimensions.

    `dims` are those of the operation as the GPU library sees it: a GEMM's m, n, k are those of
    C[m, n] = A[m, k] B[k, n] with n the contiguous dimension of C. Bytes are the least traffic:
    every input read once, every output written once, views free.
    """

    kind: Kind
    name: str  # the ATen operator, e.g. "convolution_backward"
    phase: Literal["forward", "backward"]
    dtype: str  # of the arithmetic's inputs: "fp16", "fp32", "int64", ...; "half" dtypes stand for FP16 and BF16 alike
    read_bytes: Affine
    write_bytes: Affine
    flops: Affine = (0, 0)  # multiply-adds as 2, as torch.utils.flop_counter counts; 0 for memory-bound operations
    dims: dict[str, Affine] = {}
    kernels: int = 1  # CUDA kernels one call launches in PyTorch's eager mode (an estimate for composite operators)
    layers: tuple[int, ...] = ()  # indices into Workload.layer_names, one per call, in order of execution
    count: int = 1  # how many calls


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The operations and memory of one step under one recipe."""

    mode: Literal["train", "infer"]
    precision: Literal["amp", "fp32"]  # amp: autocast to a 2-byte type (FP16 and BF16 share their lists)
    layout: Literal["nhwc", "nchw", "any"]  # any: the model has no 4-D tensors, layout means nothing
    attention: Literal["fused", "unfused", "none"]  # scaled_dot_product_attention kernels or their decomposition
    ops: tuple[Op, ...]
    # Upper envelopes, over the moments of a step, of the bytes alive in storages other than parameters,
    # buffers and optimizer state: peak(B) = max over the pairs of a + b*B.
    # `live` counts no parameter gradients (they exist beforehand: gradients kept through accumulation, or
    # zero_grad(set_to_none=False)); `live_with_gradients` counts each from its birth in the backward pass.
    live: tuple[Affine, ...]
    live_with_gradients: tuple[Affine, ...] = ()
    saved: Affine = (0, 0)  # bytes saved for backward when the forward pass ends


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A model and its training step, traced once and valid for every batch size."""

    schema_version: int
    name: str  # as typed: "resnet50"
    title: str  # as printed: "ResNet-50"
    task: str  # "image classification", "segmentation", "masked language modelling", ...
    origin: str  # which definition was traced: library, version, factory and its arguments
    input_shape: tuple[int, ...]  # one sample: (3, 224, 224), or (sequence length,)
    parameters: int
    parameter_tensors: int
    trainable_parameters: int
    buffer_bytes: int
    batch_norm_layers: int
    layer_names: tuple[str, ...]
    variants: tuple[Variant, ...]
    largest_parameter: int = 0  # elements of the largest parameter tensor (optimizer temporaries)
    factory: str = ""  # how to build it anew for another input size: "torchvision:resnet50", "hf:BertForMaskedLM"


class StoredVariant(Variant, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A variant as a file holds it: `ops` are indices into the file's table, in order of execution."""

    ops: tuple[int, ...]  # type: ignore[assignment]


class StoredWorkload(Workload, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A workload as a file holds it: variants share most operations, so each is written once, in `ops`."""

    ops: tuple[Op, ...]
    variants: tuple[StoredVariant, ...]
