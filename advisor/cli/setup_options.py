"""Options that say what is predicted for: shared by `recommend`, `explain` and `predict step`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from click.shell_completion import CompletionItem

from advisor.cli.options import add_options
from advisor.errors import BadInputError
from advisor.recipe import MODES, OPTIMIZERS, PRECISIONS, RECIPES, Layout
from advisor.units import percent

if TYPE_CHECKING:
    from advisor.step import Setup

_Command = TypeVar("_Command", bound=Callable[..., Any])


def parse_shape(text: str) -> tuple[int, ...]:
    """Read one sample's shape, "3x224x224". Raises BadInputError where it is none."""
    parts = text.lower().split("x")
    if not all(part.isdecimal() and 0 < int(part) <= 1 << 20 for part in parts):
        raise BadInputError(f"input shape {text!r} is not of the form 3x224x224")
    return tuple(int(part) for part in parts)


def complete_gpus(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names for `--gpu` that begin so."""
    from advisor.gpus import list_gpus

    names = ["auto", "local", *(gpu.id for gpu in list_gpus())]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_models(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names for `--model` that begin so."""
    from advisor.workload.catalogue import catalogue_names

    return [CompletionItem(name) for name in catalogue_names() if name.startswith(incomplete)]


SIZE_OPTIONS = (
    click.option("--input", "input_shape", metavar="CxHxW", help="One sample's shape, e.g. 3x224x224."),
    click.option("--seq-len", type=int, help="Sequence length of a language model."),
    click.option("--layout", type=click.Choice([layout for layout in get_args(Layout) if layout != "any"]),
                 help="Memory layout of images: nhwc is channels_last.  [default: nhwc]"),
    click.option("--precision", type=click.Choice(PRECISIONS),
                 help="fp16 and bf16: automatic mixed precision.  [default: fp16]"),
)  # fmt: skip
SIZE_AND_RECIPE_OPTIONS = (
    *SIZE_OPTIONS,
    click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="sgd is with momentum.  [default: sgd]"),
    click.option("--mode", type=click.Choice(MODES), help="infer: the forward pass alone.  [default: train]"),
)
MODEL_OPTION = click.option(
    "--model", "-m", required=True, shell_complete=complete_models,
    help="A name from `advisor models`; torchvision:NAME, timm:NAME or hf:NAME where that library is installed; or "
         "package.module:factory, which imports and runs that code.",
)  # fmt: skip
RECIPE_OPTION = click.option("--recipe", type=click.Choice(list(RECIPES)), default="default", show_default=True,
                             help="The rest of the way a step is run.")  # fmt: skip
MEMORY_LIMIT_OPTION = click.option(
    "--memory-limit", metavar="SIZE", help="Memory to fit into, e.g. 24GiB.  [default: what is free]"
)
PROFILE_OPTION = click.option(
    "--profile", type=click.Path(path_type=Path), help="A profile file instead of the shipped one."
)
MARGIN_OPTION = click.option("--margin", metavar="SHARE", help="Added to the predicted memory, e.g. 5%.")
GPU_OPTION = click.option(
    "--gpu", "-g", default="auto", show_default=True, shell_complete=complete_gpus,
    help="A name from `advisor gpus`; auto: the local GPU, else the one named by ADVISOR_GPU, else A100-SXM4-80GB; "
         "local: the local GPU or an error.",
)  # fmt: skip
_OPTIONS = (
    MODEL_OPTION,
    GPU_OPTION,
    *SIZE_AND_RECIPE_OPTIONS,
    RECIPE_OPTION,
    MEMORY_LIMIT_OPTION,
    MARGIN_OPTION,
    PROFILE_OPTION,
)


def setup_options(command: _Command) -> _Command:
    """Add the options; the command gets them as keyword arguments named as `advisor.step.prepare`'s."""
    return add_options(_OPTIONS)(command)


def setup_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Turn the options' values into arguments of `advisor.step.prepare`."""
    shape = options.pop("input_shape")
    return {**options, "input_shape": None if shape is None else parse_shape(shape)}


def say_gpu(setup: Setup) -> None:
    """One line on stderr where the GPU was not named exactly: which one is planned for, and why."""
    if setup.resolved_gpu.note:
        click.echo(f"advisor: {setup.resolved_gpu.note}", err=True)


def setup_facts(setup: Setup) -> dict[str, Any]:
    """What was predicted for, for a JSON document."""
    gpu, error = setup.resolved_gpu.gpu, setup.error
    return {
        "model": setup.workload.name,
        "gpu": gpu.id,
        "gpu_source": setup.resolved_gpu.source,
        "recipe": setup.describe_recipe(),
        "profile": setup.describe_profile(),
        "error": {"mean_abs_log": error.mean_abs_log, "p90_abs_log": error.p90_abs_log, "origin": error.origin},
        "memory_limit_bytes": setup.memory_limit_bytes,
        "margin": setup.margin,
        "notes": setup.notes(),
    }


def setup_lines(setup: Setup, notes: Iterable[str] | None = None) -> list[str]:
    """What a table was predicted for, to stand below it; `notes` are those of the setup unless given."""
    error = setup.error
    said = setup.resolved_gpu.note  # on stderr
    return [
        f"recipe   {setup.describe_recipe()}",
        f"profile  {setup.describe_profile()}",
        f"error    {percent(error.mean_abs_log, 1)} mean, {percent(error.p90_abs_log, 1)} in nine of ten "
        f"({error.origin})",
        *(f"note     {note}" for note in (setup.notes() if notes is None else notes) if note != said),
    ]
