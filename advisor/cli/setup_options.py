"""Options that say what is predicted for: shared by `recommend`, `explain` and `predict step`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from click.shell_completion import CompletionItem

from advisor.errors import BadInputError
from advisor.recipe import MODES, OPTIMIZERS, PRECISIONS, RECIPES, Layout

_Command = TypeVar("_Command", bound=Callable[..., Any])


def parse_shape(text: str) -> tuple[int, ...]:
    """Read one sample's shape, "3x224x224". Raises BadInputError where it is none."""
    parts = text.lower().split("x")
    if not all(part.isdecimal() and 0 < int(part) <= 1 << 20 for part in parts):
        raise BadInputError(f"input shape {text!r} is not of the form 3x224x224")
    return tuple(int(part) for part in parts)


def _complete_gpus(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from advisor.gpus import list_gpus

    names = ["auto", "local", *(gpu.id for gpu in list_gpus())]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _complete_models(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from advisor.workload.catalogue import catalogue_names

    return [CompletionItem(name) for name in catalogue_names() if name.startswith(incomplete)]


_OPTIONS = (
    click.option("--model", "-m", required=True, shell_complete=_complete_models,
                 help="A name from `advisor models`; torchvision:NAME, timm:NAME or hf:NAME where that library is "
                      "installed; or package.module:factory, which imports and runs that code."),
    click.option("--gpu", "-g", default="auto", show_default=True, shell_complete=_complete_gpus,
                 help="A name from `advisor gpus`; auto: the local GPU, else the one named by ADVISOR_GPU, else "
                      "A100-SXM4-80GB; local: the local GPU or an error."),
    click.option("--input", "input_shape", metavar="CxHxW", help="One sample's shape, e.g. 3x224x224."),
    click.option("--seq-len", type=int, help="Sequence length of a language model."),
    click.option("--layout", type=click.Choice([layout for layout in get_args(Layout) if layout != "any"]),
                 help="Memory layout of images: nhwc is channels_last.  [default: nhwc]"),
    click.option("--precision", type=click.Choice(PRECISIONS),
                 help="fp16 and bf16: automatic mixed precision.  [default: fp16]"),
    click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="sgd is with momentum.  [default: sgd]"),
    click.option("--mode", type=click.Choice(MODES), help="infer: the forward pass alone.  [default: train]"),
    click.option("--recipe", type=click.Choice(list(RECIPES)), default="default", show_default=True,
                 help="The rest of the way a step is run."),
    click.option("--memory-limit", metavar="SIZE", help="Memory to fit into, e.g. 24GiB.  [default: what is free]"),
    click.option("--margin", metavar="SHARE", help="Added to the predicted memory, e.g. 5%."),
    click.option("--profile", type=click.Path(path_type=Path), help="A profile file instead of the shipped one."),
)  # fmt: skip


def setup_options(command: _Command) -> _Command:
    """Add the options; the command gets them as keyword arguments named as `advisor.step.prepare`'s."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def setup_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Turn the options' values into arguments of `advisor.step.prepare`."""
    shape = options.pop("input_shape")
    return {**options, "input_shape": None if shape is None else parse_shape(shape)}
