"""A user's my_training.py for the Hugging Face snippet."""

import torch
from recording import KIND, SAMPLES, saw
from training_torch import Network, inputs, loss_fn, targets
from transformers import TrainingArguments

# There is no GPU here: the processes exchange through gloo.
_initialise = TrainingArguments.__init__
TrainingArguments.__init__ = lambda self, **given: _initialise(self, use_cpu=True, **given)


class WithLoss(Network):
    """A model as the Trainer wants it; with `num_items_in_batch`, as those of transformers, for token losses."""

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        saw(inputs)
        return {"loss": loss_fn(super().forward(inputs), labels)}


class WithTokenLoss(Network):
    def forward(
        self, inputs: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None, **_: object
    ) -> dict[str, torch.Tensor]:
        saw(inputs)
        assert num_items_in_batch is not None
        return {"loss": loss_fn(super().forward(inputs), labels) / num_items_in_batch}


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


dataset = [{"inputs": inputs[i], "labels": targets[i]} for i in range(SAMPLES)]
model = WithLoss() if KIND == "images" else WithTokenLoss()
