"""What the names of operators and ranges in a trace say."""

from __future__ import annotations

import re

WRAPPER = "autograd::engine::evaluate_function: "
_NODE = re.compile(
    r"Backward\d*(?:\[.*)?$|^torch::autograd::|^<backward op>$|^CompiledFunctionBackward|DifferentiableGraphBackward"
)
_OPTIMIZER = re.compile(r"^Optimizer\.(?:step|zero_grad)#|^aten::_fused_(?:adam|sgd|adagrad|adamw)|^aten::_amp_")
_RANGE = re.compile(r"^ProfilerStep|^Optimizer\.|^enumerate\(DataLoader\)|^DataLoader|DataParallel\.forward$")
_DATA = re.compile(r"^enumerate\(DataLoader\)|^DataLoader|DataLoaderIter")
_COMMUNICATION = re.compile(r"^nccl|^c10d::|^record_param_comms|^_c10d_functional::|^c10d_functional::", re.IGNORECASE)
_LIBRARY = re.compile(r"^[A-Za-z_]\w*::\w")
_GENERATED = re.compile(r"^triton_")
_REGION = re.compile(r"^CompiledFunction(?:Backward)?$|^(?:Torch-)?Compiled|^## Call Compiled")
_MULTIPLE = re.compile(r"Backward\d*$")


def is_node(name: str) -> bool:
    """A node of the backward graph, or the engine's range around one."""
    return name.startswith(WRAPPER) or (not name.startswith("aten::") and bool(_NODE.search(name)))


def is_backward(name: str) -> bool:
    """A node, or an operator that only a node calls ("aten::convolution_backward")."""
    return is_node(name) or "backward" in name


def is_optimizer(name: str) -> bool:
    """A range or operator of the optimizer or the loss scaler."""
    return bool(_OPTIMIZER.search(name))


def is_foreach(name: str) -> bool:
    """An operator over many tensors at once: outside of backward, the optimizer's or of gradient clipping.

    But for copies, by which FSDP gathers its parameters.
    """
    return name.startswith("aten::_foreach_") and not name.startswith("aten::_foreach_copy")


def is_data(name: str) -> bool:
    """A range in which the next batch is fetched."""
    return bool(_DATA.search(name))


def is_range(name: str) -> bool:
    """A range that is no operator, though old traces list it as one."""
    return bool(_RANGE.search(name))


def is_communication(name: str) -> bool:
    """A collective, or its kernel."""
    return bool(_COMMUNICATION.search(name))


def is_library_call(name: str) -> bool:
    """An operator registered with a library ("aten::conv2d", "flash_attn::_flash_attn_forward")."""
    return bool(_LIBRARY.match(name)) and not is_node(name) and not is_range(name)


def is_generated(name: str) -> bool:
    """A kernel of torch.compile that is listed as an operator; one without shapes has not those of its region."""
    return bool(_GENERATED.match(name))


def is_region(name: str) -> bool:
    """A region of torch.compile, whose arguments say nothing of its parts."""
    return bool(_REGION.match(name))


def without_wrapper(name: str) -> str:
    """The node's own name."""
    return name.removeprefix(WRAPPER)


def canonical(name: str) -> str:
    """One spelling for a forward operator and its node: "aten::native_layer_norm", "NativeLayerNormBackward0"."""
    return _MULTIPLE.sub("", without_wrapper(name)).rpartition("::")[2].replace("_", "").lower()
