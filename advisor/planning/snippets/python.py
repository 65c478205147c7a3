"""Snippets that are Python scripts, from the templates beside this module."""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from advisor.planning.records import PlanOptimizer
from advisor.planning.snippets.facts import Facts, number, plain


@dataclass(frozen=True)
class TorchOptimizer:
    """Where torch users find an optimizer, and what it is called with."""

    module: str  # "torch.optim", "timm.optim": torch has neither LARS nor LAMB
    name: str
    arguments: tuple[str, ...]  # beside parameters and rate


_SGD_ARGUMENTS = ("momentum=MOMENTUM", "weight_decay=WEIGHT_DECAY")
_ADAM_ARGUMENTS = ("betas=BETAS", "eps=EPS", "weight_decay=WEIGHT_DECAY")
_ADAPT = "always_adapt=True"  # without it timm's adapt only weights that decay
TORCH_OPTIMIZERS: dict[PlanOptimizer, TorchOptimizer] = {
    "sgd": TorchOptimizer("torch.optim", "SGD", _SGD_ARGUMENTS),
    "adam": TorchOptimizer("torch.optim", "Adam", _ADAM_ARGUMENTS),
    "adamw": TorchOptimizer("torch.optim", "AdamW", _ADAM_ARGUMENTS),
    "lars": TorchOptimizer("timm.optim", "Lars", (*_SGD_ARGUMENTS, _ADAPT)),
    "lamb": TorchOptimizer("timm.optim", "Lamb", (*_ADAM_ARGUMENTS, _ADAPT, "max_grad_norm=None")),
}


def render(facts: Facts, framework: str) -> str:
    """The script for one framework; `framework` names its template."""
    optimizer = TORCH_OPTIMIZERS[facts.optimizer]
    arguments = optimizer.arguments
    if optimizer.module == "torch.optim" and not facts.settings.foreach:
        arguments = (*arguments, "foreach=False")
    text = _environment().get_template(f"{framework}.py.j2").render(f=facts, optimizer=optimizer, arguments=arguments)
    text = re.sub("\n{4,}", "\n\n\n", text).rstrip("\n") + "\n"  # a macro leaves its own line end
    return _without_unused_constants(text)


def _without_unused_constants(text: str) -> str:
    """`text` without constants that no line reads: which these are depends on nearly every choice of a plan."""
    names = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)]
    unused = {n.id for n in names if n.id.isupper()} - {n.id for n in names if isinstance(n.ctx, ast.Load)}
    if not unused:
        return text
    lines = text.splitlines(keepends=True)
    return _without_unused_constants("".join(line for line in lines if line.split(" = ")[0] not in unused))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("advisor.planning.snippets"),
        autoescape=False,  # it is Python, and `plain` keeps names within their comment
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = number
    environment.filters["plain"] = plain
    environment.filters["comment"] = _comment
    return environment


def _comment(text: str) -> str:
    """Text as lines of comment."""
    return textwrap.fill(text, 120, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
