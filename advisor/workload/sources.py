"""Building the module of a model name, without trained weights: torchvision, timm, Transformers, the user's factory.

To be traced a module needs no values and is built without (on the meta device, where it can be); with `values=True` it
is built as its library does, with initial values on the processor, to be run.

Imports torch: import it inside functions.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import torch
from torch.overrides import TorchFunctionMode

from advisor.errors import AdvisorError, BadInputError, MissingDependencyError, UnknownNameError
from advisor.recipe import Recipe
from advisor.workload.inputs import Inputs, MakeInputs

if TYPE_CHECKING:
    from advisor.workload.schema import Workload
    from advisor.workload.trace import VariantSpec

# Published sizes of language models, as arguments of Transformers' configurations (whose defaults are the base sizes):
# BERT: arXiv:1810.04805; GPT-2: Radford et al. 2019, table 2; T5: arXiv:1910.10683.
LANGUAGE_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base": ("BertForMaskedLM", {}),
    "bert-large": (
        "BertForMaskedLM",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    ),
    "gpt2": ("GPT2LMHeadModel", {}),
    "gpt2-medium": ("GPT2LMHeadModel", {"n_embd": 1024, "n_layer": 24, "n_head": 16}),
    "t5-small": ("T5ForConditionalGeneration", {}),
}
_TASKS = {
    "MaskedLM": "masked language modelling",
    "CausalLM": "language modelling",
    "LMHeadModel": "language modelling",
    "ConditionalGeneration": "sequence to sequence",
    "Seq2SeqLM": "sequence to sequence",
    "ImageClassification": "image classification",
    "SequenceClassification": "text classification",
}


@dataclass(frozen=True)
class Source:
    """A module, and what its samples are."""

    module: torch.nn.Module
    input_shape: tuple[int, ...]  # one sample
    input_dtype: Literal["float32", "int64"] = "float32"
    inputs: MakeInputs | None = None
    title: str = ""
    task: str = ""
    origin: str = ""
    factory: str = ""

    def trace(self, name: str, recipe: Recipe) -> Workload:
        """The workload of one recipe."""
        from advisor.workload.trace import VariantSpec

        spec = VariantSpec(
            mode=recipe.mode,
            precision="amp" if recipe.autocast else "fp32",
            layout=None if recipe.layout == "any" else recipe.layout,
            attention=recipe.attention,
        )
        return self.trace_variants(name, [spec])

    def trace_variants(self, name: str, variants: Sequence[VariantSpec]) -> Workload:
        """The workload of several ways to run a step."""
        from advisor.workload.trace import trace_module

        return trace_module(
            self.module,
            self.input_shape,
            name=name,
            inputs=self.inputs,
            input_dtype=self.input_dtype,
            variants=variants,
            title=self.title or name,
            task=self.task,
            origin=self.origin or None,
            factory=self.factory,
        )


# Libraries ----------------------------------------------------------------------------------------------------------


def from_torchvision(
    name: str, input_shape: tuple[int, ...] | None = None, seq_len: int | None = None, *, values: bool = False
) -> Source:
    """A torchvision model at the input size of its published weights, or at `input_shape`."""
    _no_sequence(f"torchvision:{name}", seq_len)
    library = _library("torchvision", "torchvision.models")
    names = library.list_models()
    if name not in names:
        raise UnknownNameError("torchvision model", name, names, "torchvision.models.list_models() has them all.")
    takes = inspect.signature(library.get_model_builder(name)).parameters
    unweighted = {key: None for key in ("weights", "weights_backbone") if key in takes}  # or it would download some
    module = _build(f"torchvision:{name}", lambda: library.get_model(name, **unweighted), values=values)
    return Source(
        module,
        input_shape or (3, *[_torchvision_size(library, name)] * 2),
        task="segmentation" if library.get_model_builder(name).__module__.startswith("torchvision.models.segm")
        else "image classification",
        origin=f"torchvision {_version('torchvision')}, torchvision.models.{name}()",
        factory=f"torchvision:{name}",
    )  # fmt: skip


def _torchvision_size(library: ModuleType, name: str) -> int:
    """The side its published weights are evaluated at; 224 where they name none."""
    weights = next(iter(library.get_model_weights(name)), None)
    transforms = weights.transforms() if weights is not None else None
    sides = getattr(transforms, "crop_size", None) or getattr(transforms, "resize_size", None) or [224]
    return sides[0] if isinstance(sides, (list, tuple)) else 224


def from_timm(
    name: str, input_shape: tuple[int, ...] | None = None, seq_len: int | None = None, *, values: bool = False
) -> Source:
    """A timm model at its own input size, or at `input_shape`."""
    _no_sequence(f"timm:{name}", seq_len)
    library = _library("timm")
    if not library.is_model(name.split(".", maxsplit=1)[0]):
        raise UnknownNameError("timm model", name, library.list_models(), "timm.list_models() has them all.")
    module = _build(f"timm:{name}", lambda: library.create_model(name, pretrained=False), values=values)
    own = getattr(module, "default_cfg", {}).get("input_size", (3, 224, 224))
    return Source(
        module,
        input_shape or tuple(own),
        task="image classification",
        origin=f"timm {_version('timm')}, timm.create_model({name!r})",
        factory=f"timm:{name}",
    )


def from_transformers(
    name: str, input_shape: tuple[int, ...] | None = None, seq_len: int | None = None, *, values: bool = False
) -> Source:
    """A Transformers model built from a configuration: a class, a configuration class, one of LANGUAGE_MODELS, a
    folder or file with a configuration, or the name of one on the Hub. Trained on labels, without a padding mask."""
    library = _library("transformers")
    changes: dict[str, Any] = {}
    class_name = name
    if name in LANGUAGE_MODELS:
        class_name, changes = LANGUAGE_MODELS[name]
    config, model_class = _transformers_classes(library, class_name, changes)
    config.use_cache = False
    if getattr(config, "is_encoder_decoder", False) and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 0  # shifts the labels into the decoder's input; no size depends on it
    build = getattr(model_class, "_from_config", None) or model_class.from_config  # an auto class has the latter
    module = _build(f"hf:{name}", lambda: build(config), values=values)
    if not values and config._attn_implementation == "sdpa":
        # Without padding Transformers looks at its data and then passes no mask; fake data cannot be looked at.
        library.AttentionInterface.register("unpadded_sdpa", library.AttentionInterface()["sdpa"])
        module.set_attn_implementation("unpadded_sdpa")
    kind = type(module).__name__
    origin = f"transformers {_version('transformers')}, {kind}({_arguments(changes)}), no padding mask"
    task = next((task for suffix, task in _TASKS.items() if kind.endswith(suffix)), "")
    if module.main_input_name == "pixel_values":
        _no_sequence(f"hf:{name}", seq_len)
        size = getattr(config, "image_size", 224)
        sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
        shape = input_shape or (getattr(config, "num_channels", 3), *sides)
        return Source(module, shape, task=task, origin=origin, factory=f"hf:{name}")
    if input_shape and len(input_shape) > 1:
        raise BadInputError(f"hf:{name} takes tokens: give --seq-len 128 instead of {'x'.join(map(str, input_shape))}")
    length = seq_len or (input_shape[0] if input_shape else None)
    longest = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if length is None:
        length = min(512, longest or 512)
    elif longest and length > longest and not getattr(config, "rope_parameters", None) and kind[:2] != "T5":
        raise BadInputError(f"hf:{name} holds {longest} positions: a sequence of {length} is too long")
    return Source(
        module,
        (length,),
        "int64",
        inputs=_token_inputs(module, length),
        task=task,
        origin=origin,
        factory=f"hf:{name}",
    )


def _transformers_classes(library: ModuleType, name: str, changes: Mapping[str, Any]) -> tuple[Any, Any]:
    """(configuration, model class), the latter an auto class where the name is a configuration's."""
    try:
        found = getattr(library, name, None) if name.isidentifier() else None
    except Exception as error:  # classes are imported when first asked for, and with them whatever they need
        _broken("transformers", error)
    if found is None:
        if name.isidentifier() and not Path(name).exists():
            known = [n for n in dir(library) if n.endswith(("Config", "Model")) or "For" in n]
            raise UnknownNameError(
                "Transformers class", name, [*LANGUAGE_MODELS, *known],
                "Give a class such as hf:BertForMaskedLM, a folder with config.json, or OWNER/NAME on the Hub.",
            )  # fmt: skip
        try:
            with _hub_without_retry_messages():
                config = library.AutoConfig.from_pretrained(name, trust_remote_code=False)
        except Exception as error:
            raise BadInputError(
                f"no Transformers configuration {name!r}: {_first_line(error)}; give a class such as "
                "hf:BertForMaskedLM, or a folder with config.json"
            ) from error
        declared = next(iter(getattr(config, "architectures", None) or []), "")
        return config, getattr(library, declared, None) or _auto_class(library, config)
    if name.endswith("Config"):
        config = found()
        return config, _auto_class(library, config)
    if not hasattr(found, "config_class") or found.config_class is None:
        raise BadInputError(f"transformers.{name} is no model or configuration class")
    return found.config_class(**changes), found


@contextlib.contextmanager
def _hub_without_retry_messages() -> Iterator[None]:
    """Without a network the Hub's client warns at every retry; the error that follows says it once."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _auto_class(library: ModuleType, config: Any) -> Any:
    names = ("MaskedLM", "CausalLM", "Seq2SeqLM", "ImageClassification")
    autos = [getattr(library, f"AutoModelFor{name}") for name in names]
    return next((auto for auto in autos if type(config) in auto._model_mapping), library.AutoModel)


def _token_inputs(module: torch.nn.Module, length: int) -> MakeInputs:
    """Token ids, and labels where forward takes any: one per token, or one per sequence for a classifier."""
    takes_labels = "labels" in inspect.signature(module.forward).parameters
    per_sequence = type(module).__name__.endswith(("SequenceClassification", "ImageClassification"))

    def make(batch: int) -> Inputs:
        tokens = torch.empty((batch, length), dtype=torch.int64)
        keywords: dict[str, Any] = {"input_ids": tokens}
        if takes_labels and module.training:
            labels = (batch,) if per_sequence else (batch, length)
            keywords["labels"] = torch.empty(labels, dtype=torch.int64)
        elif "decoder_input_ids" in inspect.signature(module.forward).parameters:
            keywords["decoder_input_ids"] = torch.empty((batch, length), dtype=torch.int64)
        return (), keywords

    return make


BUILDERS: dict[str, Callable[..., Source]] = {  # as (name, input_shape, seq_len, *, values)
    "torchvision": from_torchvision,
    "timm": from_timm,
    "hf": from_transformers,
}


# The user's own -----------------------------------------------------------------------------------------------------


def from_factory(
    path: str, name: str, input_shape: tuple[int, ...] | None, seq_len: int | None, *, values: bool = False
) -> Source:
    """Import a module (the current folder counts), call its factory without arguments, take the nn.Module."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(path), name) if path and name else None
    except ModuleNotFoundError as error:
        if error.name and (path == error.name or path.startswith(f"{error.name}.")):
            raise UnknownNameError(
                "library or module", path, [*BUILDERS, *sys.modules],
                "Write package.module:factory for your own code, importable from here.",
            ) from error  # fmt: skip
        raise BadInputError(f"{path} cannot be imported: {error}") from error
    except AttributeError as error:
        raise BadInputError(f"{path} has no {name!r}: give the name of a function that returns an nn.Module") from error
    except (Exception, SystemExit) as error:
        raise BadInputError(f"{path} cannot be imported: {_first_line(error)}") from error
    if factory is None:
        raise BadInputError(f"model '{path}:{name}' lacks a module or a name: write package.module:factory")
    is_module = isinstance(factory, torch.nn.Module)
    module = factory if is_module else _build(f"{path}:{name}", factory, real=True, values=values)
    if not isinstance(module, torch.nn.Module):
        raise BadInputError(f"{path}:{name} returned {type(module).__name__}, not an nn.Module")
    return from_module(module, input_shape, seq_len, origin=f"{path}:{name}")


def from_module(
    module: torch.nn.Module, input_shape: tuple[int, ...] | None, seq_len: int | None, *, origin: str = ""
) -> Source:
    """A module at hand; one sample's size has to be given."""
    origin = origin or f"{type(module).__module__}.{type(module).__qualname__}"
    if seq_len is not None:
        takes_ids = "input_ids" in inspect.signature(module.forward).parameters
        inputs = _token_inputs(module, seq_len) if takes_ids else None
        return Source(module, (seq_len,), "int64", inputs=inputs, origin=origin)
    if input_shape is None:
        raise BadInputError(f"{origin} needs the size of one sample: --input 3x224x224 or --seq-len 512")
    return Source(module, input_shape, origin=origin)


# Helpers ------------------------------------------------------------------------------------------------------------


class _NoInitialisation(TorchFunctionMode):
    """Leaves new parameters as they come: their values are never looked at, and drawing them takes seconds."""

    _DRAWS = frozenset({
        "normal_", "uniform_", "trunc_normal_", "_no_grad_trunc_normal_", "erfinv_", "kaiming_uniform_",
        "kaiming_normal_", "xavier_uniform_", "xavier_normal_", "orthogonal_",
    })  # fmt: skip

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self._DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextlib.contextmanager
def without_initialisation() -> Iterator[None]:
    """Within it, modules are built with parameters of any content."""
    with _NoInitialisation():
        yield


def _build(what: str, build: Callable[[], Any], *, real: bool = False, values: bool = False) -> Any:
    """Build on the meta device, which holds no memory; where a constructor reads values, or `real`, on the CPU.

    `values`: on the CPU, and with initial values.
    """
    if not (real or values):
        try:
            with torch.device("meta"):
                return build()
        except Exception:  # .item() and the like: a real one has values
            pass
    try:
        with contextlib.nullcontext() if values else without_initialisation():
            return build()
    except AdvisorError:
        raise
    except (Exception, SystemExit) as error:
        raise BadInputError(f"{what} cannot be built: {type(error).__name__}: {_first_line(error)}") from error


def _library(name: str, module: str | None = None) -> ModuleType:
    try:
        declare_torchvision_operators()  # timm and Transformers import torchvision, too
        return importlib.import_module(module or name)
    except ImportError as error:
        if error.name and error.name.split(".")[0] == name:
            raise MissingDependencyError(f"{name} is not installed: pip install {name}") from error
        _broken(name, error)
    except Exception as error:  # an operator of a wrong build is a RuntimeError
        _broken(name, error)


def declare_torchvision_operators() -> None:
    """Let torchvision's model definitions be imported under a torch it was not built for (a CPU build, say).

    Its compiled operators (boxes, RoI) are not used here; only their declarations are missed. Held for good:
    a library's declarations go when the object does. Does nothing where torchvision imports as it is, or is absent.
    """
    if find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision.models")
    except ImportError:
        return  # broken in another way: whoever needs it says so
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        _declarations.append(library)


_declarations: list[object] = []


def _broken(name: str, error: Exception) -> NoReturn:
    raise MissingDependencyError(
        f"{name} cannot be imported ({_first_line(error)}): install the build that belongs to torch {torch.__version__}"
    ) from error


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def _arguments(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in changes.items())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__


def _no_sequence(name: str, seq_len: int | None) -> None:
    if seq_len is not None:
        raise BadInputError(f"{name} takes images: give --input 3x224x224 instead of a sequence length")
