"""A user's my_training.py for the snippets that train a torch module."""

import torch
from recording import CLASSES, IGNORED, KIND, events, make_data, make_weights, saw
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import TensorDataset


class Network(torch.nn.Module):
    """Two layers over the features of a sample, or of each token."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList([torch.from_numpy(weight.copy()) for weight in make_weights()])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        kernel, bias, last_kernel, last_bias = self.weights
        features = inputs.flatten(1) if KIND == "images" else inputs
        return torch.tanh(features @ kernel + bias) @ last_kernel + last_bias


def loss_fn(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean over samples, or the sum over tokens."""
    reduction = "mean" if KIND == "images" else "sum"
    return torch.nn.functional.cross_entropy(
        outputs.reshape(-1, CLASSES), targets.reshape(-1), reduction=reduction, ignore_index=IGNORED
    )


def _count_exchanges(self: DistributedDataParallel, *args: object, **kwargs: object) -> None:
    _initialise(self, *args, **kwargs)

    def hook(state: object, bucket):  # DDP checks the types that are written
        if bucket.is_last():
            events.append(("exchange", 1))
        return allreduce_hook(state, bucket)

    self.register_comm_hook(None, hook)


def _record_scale(self: torch.amp.GradScaler, outputs: torch.Tensor) -> torch.Tensor:
    events.append(("scale", self.get_scale() if self.is_enabled() else None))
    return _scale(self, outputs)


_scale = torch.amp.GradScaler.scale
torch.amp.GradScaler.scale = _record_scale
_initialise = DistributedDataParallel.__init__
DistributedDataParallel.__init__ = _count_exchanges
register_optimizer_step_post_hook(
    lambda optimizer, args, kwargs: events.append(("step", float(optimizer.param_groups[0]["lr"])))
)
torch.manual_seed(0)  # a snippet leaves its user's seed alone
inputs, targets = (torch.from_numpy(array) for array in make_data())
dataset = TensorDataset(inputs, targets)
model = Network()
model.register_forward_pre_hook(lambda module, args: saw(args[0]))
