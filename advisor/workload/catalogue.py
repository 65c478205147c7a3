"""Where a workload comes from: the shipped catalogue, a library's model, or the user's own. Imports no torch at first.

Catalogue files are read with msgspec against the schema. Only "package.module:factory" runs code of the user's.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from advisor.errors import AdvisorError, BadInputError, BrokenFileError, MissingDependencyError, UnknownNameError
from advisor.recipe import Recipe
from advisor.workload.schema import SCHEMA_VERSION, Affine, Op, StoredVariant, StoredWorkload, Variant, Workload

if TYPE_CHECKING:
    import torch

CATALOGUE = Path(__file__).parent.parent / "catalogue"
MAX_FILE_BYTES = 16 << 20
LARGEST_SIZE = 1 << 42  # of one sample; at the largest batch, 1 << 20, it still is below 1 << 63
_CONVOLUTION = frozenset({
    "n", "c", "h", "w", "k", "p", "q", "r", "s", "stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w",
    "groups",
})  # fmt: skip
_ATTENTION = frozenset({"batch", "heads", "q_len", "kv_len", "head_dim", "value_dim", "causal"})
DIMS = {  # what an operation of each kind must tell, as `schema.Kind` says
    "gemm": frozenset({"m", "n", "k"}),
    "bmm": frozenset({"batch", "m", "n", "k"}),
    **dict.fromkeys(("conv_fprop", "conv_dgrad", "conv_wgrad"), _CONVOLUTION),
    **dict.fromkeys(("attention_fprop", "attention_bprop"), _ATTENTION),
}
MAY_BE_ZERO = frozenset(("pad_h", "pad_w", "causal", "a_t", "b_t"))
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
        stored = msgspec.json.decode(path.read_bytes(), type=StoredWorkload)
    except OSError as error:
        raise BrokenFileError(f"{path} cannot be read: {error.strerror}; {cure}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BrokenFileError(f"{path} is damaged: {error}; {cure}") from error
    if problem := _inconsistency(stored):
        raise BrokenFileError(f"{path} is damaged: {problem}; {cure}")
    fields = {f.name: getattr(stored, f.name) for f in msgspec.structs.fields(Workload)}
    fields["variants"] = tuple(
        Variant(**{**msgspec.structs.asdict(v), "ops": tuple([stored.ops[i] for i in v.ops])}) for v in stored.variants
    )
    return Workload(**fields)


def _inconsistency(stored: StoredWorkload) -> str | None:
    """What the types alone cannot see."""
    if stored.schema_version != SCHEMA_VERSION:
        return f"schema_version {stored.schema_version}, this version reads {SCHEMA_VERSION}"
    if min(stored.input_shape, default=0) < 1:
        return f"input_shape {list(stored.input_shape)}"
    counts = (stored.parameters, stored.parameter_tensors, stored.trainable_parameters, stored.buffer_bytes)
    if not all(0 <= count <= LARGEST_SIZE for count in (*counts, stored.batch_norm_layers, stored.largest_parameter)):
        return "counts of parameters, buffers or layers are negative or absurd"
    for i, op in enumerate(stored.ops):
        if problem := _operation_problem(op, len(stored.layer_names)):
            return f"ops[{i}], {op.kind}: {problem}"
    for i, variant in enumerate(stored.variants):
        if problem := _variant_problem(variant, len(stored.ops)):
            return f"variants[{i}]: {problem}"
    return None if stored.variants else "no variants"


def _operation_problem(op: Op, layers: int) -> str | None:
    if op.count != len(op.layers) or min(op.layers, default=-1) < 0 or max(op.layers) >= layers:
        return "count and layers disagree, or a layer has no name"
    if op.kernels < 0 or not all(map(_sound, (op.read_bytes, op.write_bytes, op.flops))):
        return "bytes, FLOPs or kernels are negative or absurd"
    if lacking := DIMS.get(op.kind, frozenset()) - op.dims.keys():
        return f"lacks {', '.join(sorted(lacking))}"
    for key, line in op.dims.items():
        if not _sound(line, least=0 if key in MAY_BE_ZERO else 1):
            return f"{key} is {line[0]} + {line[1]} B"
    return None


def _variant_problem(variant: StoredVariant, operations: int) -> str | None:
    if not variant.ops or not variant.live:
        return "no operations or no live memory"
    if min(variant.ops) < 0 or max(variant.ops) >= operations:
        return "an operation that the table does not hold"
    if not all(map(_sound, (*variant.live, *variant.live_with_gradients, variant.saved))):
        return "bytes of memory are negative or absurd"
    return None


def _sound(line: Affine, least: int = 0) -> bool:
    """Whether a + b B is from `least` to LARGEST_SIZE at B = 1, and does not fall with B."""
    a, b = line
    return b >= 0 and least <= a + b <= LARGEST_SIZE


def encode_workload(workload: Workload) -> bytes:
    """JSON with one operation per line, so that differences read well; equal workloads give equal bytes."""
    table: dict[bytes, int] = {}
    variants = []
    for variant in workload.variants:
        ops = tuple(table.setdefault(msgspec.json.encode(op), len(table)) for op in variant.ops)
        variants.append(StoredVariant(**{**msgspec.structs.asdict(variant), "ops": ops}))
    fields = {f.name: getattr(workload, f.name) for f in msgspec.structs.fields(Workload)}
    lines = [b"%b:%b," % (_json(key), _json(value)) for key, value in fields.items() if key != "variants"]
    lines += [b'"ops":[', b",\n".join(table), b"],", b'"variants":[', b",\n".join(map(_json, variants)), b"]"]
    return b"{\n" + b"\n".join(lines) + b"\n}\n"


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
    check_sizes(input_shape, seq_len)
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
        raise BadInputError(
            f"{workload.name} takes {shape}, not {'x'.join(map(str, wanted))}; "
            "another size needs a model of your own, package.module:factory"
        )
    _require_torch(f"{workload.name} at another size than the shipped {shape}")
    from advisor.workload import sources

    library, _, factory = builder.partition(":")
    source = sources.BUILDERS[library](factory, input_shape, seq_len)
    title = workload.title.replace(f"sequences of {shape}", f"sequences of {'x'.join(map(str, wanted))}")
    return dataclasses.replace(source, title=title, task=workload.task).trace(workload.name, recipe)


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


def check_sizes(input_shape: tuple[int, ...] | None, seq_len: int | None) -> None:
    """Raises BadInputError where one sample's size is given twice, or is none."""
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


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)
