"""Where a workload comes from: the shipped catalogue, a library's model, or the user's own. Imports no torch at first.

Catalogue files are read with msgspec against the schema. Only "package.module:factory" runs code of the user's.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from advisor.errors import AdvisorError, BadInputError, BrokenFileError, MissingDependencyError, UnknownNameError
from advisor.recipe import Recipe
from advisor.workload.schema import SCHEMA_VERSION, Variant, Workload

if TYPE_CHECKING:
    import torch

CATALOGUE = Path(__file__).parent.parent / "catalogue"
MAX_FILE_BYTES = 16 << 20
_SEPARATORS = str.maketrans("", "", "-_ .")
_LANGUAGE_DEFAULTS = {"bert-base": 128, "bert-large": 128}  # names whose files are told apart by sequence length
_WAY_OUT = (
    "See `advisor models`; or torchvision:NAME, timm:NAME, hf:NAME, or package.module:factory for a model of your own."
)


def catalogue_names() -> tuple[str, ...]:
    """Names of the shipped models, sorted."""
    return tuple(sorted(path.stem for path in CATALOGUE.glob("*.json")))


def load_workload(name: str) -> Workload:
    """Return a shipped workload; case, "-" and "_" do not matter, and "bert-base" means its shorter sequence.

    Raises UnknownNameError with the nearest names, BrokenFileError for a damaged catalogue file.
    """
    key = _key(name)
    for known in catalogue_names():
        if _key(known) == key:
            return read_workload(CATALOGUE / f"{known}.json")
    for short, seq_len in _LANGUAGE_DEFAULTS.items():
        if _key(short) == key:
            return load_workload(f"{short}-{seq_len}")
    raise UnknownNameError("model", name, (*catalogue_names(), *_LANGUAGE_DEFAULTS), _WAY_OUT)


def read_workload(path: Path) -> Workload:
    """Read a workload file and check it against the schema. Raises BrokenFileError naming file, place and cure."""
    cure = "reinstall batchwave, or write it again with `python -m bench catalogue`"
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BrokenFileError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB: no workload; {cure}")
        workload = msgspec.json.decode(path.read_bytes(), type=Workload)
    except OSError as error:
        raise BrokenFileError(f"{path} cannot be read: {error.strerror}; {cure}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BrokenFileError(f"{path} is damaged: {error}; {cure}") from error
    if problem := _inconsistency(workload):
        raise BrokenFileError(f"{path} is damaged: {problem}; {cure}")
    return workload


def _inconsistency(workload: Workload) -> str | None:
    """What the types alone cannot see."""
    if workload.schema_version != SCHEMA_VERSION:
        return f"schema_version {workload.schema_version}, this version reads {SCHEMA_VERSION}"
    if not workload.variants:
        return "no variants"
    layers = len(workload.layer_names)
    for i, variant in enumerate(workload.variants):
        if not variant.ops or not variant.live:
            return f"variants[{i}] has no operations or no live memory"
        for j, op in enumerate(variant.ops):
            if op.count != len(op.layers) or any(not 0 <= layer < layers for layer in op.layers):
                return f"variants[{i}].ops[{j}]: count and layers disagree, or a layer has no name"
            if min(op.read_bytes[1], op.write_bytes[1], op.flops[1], op.kernels) < 0:
                return f"variants[{i}].ops[{j}]: negative sizes"
    return None


def encode_workload(workload: Workload) -> bytes:
    """JSON with one operation per line, so that differences read well; equal workloads give equal bytes."""
    fields = {f.encode_name: getattr(workload, f.name) for f in msgspec.structs.fields(workload)}
    del fields["variants"]
    lines = [f"{_json(key)}:{_json(value)}," for key, value in fields.items()]
    lines.append('"variants":[')
    for i, variant in enumerate(workload.variants):
        rest = {k: v for k, v in msgspec.to_builtins(variant).items() if k != "ops"}
        lines.append(f'{_json(rest)[:-1]},"ops":[')
        lines.append(",\n".join(_json(op) for op in variant.ops))
        lines.append("]}" + ("," if i + 1 < len(workload.variants) else ""))
    return ("{\n" + "\n".join(lines) + "\n]}\n").encode()


def select_variant(workload: Workload, recipe: Recipe) -> Variant:
    """The step that a recipe describes. Raises BadInputError where the workload does not hold it."""
    precision = "amp" if recipe.autocast else "fp32"
    wanted = {"mode": (recipe.mode,), "precision": (precision,), "layout": (recipe.layout, "any"),
              "attention": (recipe.attention, "none", "unfused")}  # fmt: skip
    matching = [v for v in workload.variants if all(getattr(v, field) in values for field, values in wanted.items())]
    if not matching:
        raise BadInputError(
            f"{workload.name} was not traced for {recipe.mode}, {precision}, {recipe.layout}, {recipe.attention} "
            f"attention; it holds {'; '.join(_describe(v) for v in workload.variants)}"
        )
    return min(matching, key=lambda v: v.attention != recipe.attention)


def forward_flops(workload: Workload) -> int:
    """FLOP of the forward pass per sample (a multiply-add counts 2)."""
    return sum(op.count * op.flops[1] for op in workload.variants[0].ops if op.phase == "forward")


def resolve_workload(
    model: str | Workload | torch.nn.Module,
    *,
    input_shape: tuple[int, ...] | None = None,
    seq_len: int | None = None,
    recipe: Recipe | None = None,
) -> Workload:
    """Return the workload of a catalogue name, a library's model, a factory, a module or a workload.

    "torchvision:NAME", "timm:NAME" and "hf:NAME" (a Transformers class, configuration class, or configuration to
    download or read) build that library's model without weights; "package.module:factory" imports and runs the
    user's code; all these, modules and catalogue models at another `input_shape` or `seq_len` are traced, for
    `recipe` alone.

    Raises UnknownNameError, BadInputError, MissingDependencyError (torch or the library), TraceError.
    """
    recipe = recipe or Recipe()
    _check_sizes(input_shape, seq_len)
    if isinstance(model, Workload):
        return model
    if not isinstance(model, str):
        return _trace_instance(model, input_shape, seq_len, recipe)
    library, colon, name = model.partition(":")
    if not colon:
        return _from_catalogue(model, input_shape, seq_len, recipe)
    _require_torch(model)
    from advisor.workload import sources

    if library in sources.BUILDERS:
        source = sources.BUILDERS[library](name, input_shape, seq_len)
    else:
        source = sources.from_factory(library, name, input_shape, seq_len)
    return source.trace(model, recipe)


def _from_catalogue(name: str, input_shape: tuple[int, ...] | None, seq_len: int | None, recipe: Recipe) -> Workload:
    wanted = input_shape or ((seq_len,) if seq_len else None)
    key = _key(name)
    if seq_len and any(_key(short) == key for short in _LANGUAGE_DEFAULTS):
        short = next(short for short in _LANGUAGE_DEFAULTS if _key(short) == key)
        if f"{short}-{seq_len}" in catalogue_names():
            return load_workload(f"{short}-{seq_len}")
    workload = load_workload(name)
    if wanted is None or wanted == workload.input_shape:
        return workload
    shape = "x".join(map(str, workload.input_shape))
    builder = workload.factory
    if len(wanted) != len(workload.input_shape) or not builder:
        raise BadInputError(f"{workload.name} takes {shape}, not {'x'.join(map(str, wanted))}")
    _require_torch(f"{workload.name} at another size than the shipped {shape}")
    from advisor.workload import sources

    library, _, factory = builder.partition(":")
    return sources.BUILDERS[library](factory, input_shape, seq_len).trace(workload.name, recipe)


def _trace_instance(module: Any, input_shape: tuple[int, ...] | None, seq_len: int | None, recipe: Recipe) -> Workload:
    torch_ = sys.modules.get("torch")
    if torch_ is None or not isinstance(module, torch_.nn.Module):
        raise BadInputError(
            f"model must be a name, an nn.Module or a Workload, not {type(module).__name__}: {_WAY_OUT}"
        )
    from advisor.workload import sources

    return sources.from_module(module, input_shape, seq_len).trace(type(module).__name__, recipe)


def _require_torch(what: str) -> None:
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} has to be traced, which needs PyTorch: pip install 'batchwave[torch]'"
        ) from error
    except Exception as error:  # a broken installation raises whatever it likes
        raise AdvisorError(f"PyTorch cannot be imported: {error}; reinstall it") from error


def _check_sizes(input_shape: tuple[int, ...] | None, seq_len: int | None) -> None:
    if input_shape is not None and seq_len is not None:
        raise BadInputError("give the input shape or the sequence length, not both")
    sizes = input_shape if input_shape is not None else () if seq_len is None else (seq_len,)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 1 << 20:
            raise BadInputError(f"size {size!r} of one sample is no whole number from 1 to {1 << 20}")
    if input_shape is not None and not input_shape:
        raise BadInputError("the input shape of one sample is empty: give e.g. 3x224x224")


def _describe(variant: Variant) -> str:
    return f"{variant.mode} {variant.precision} {variant.layout} {variant.attention}"


@cache
def _key(name: str) -> str:
    return name.lower().translate(_SEPARATORS)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
