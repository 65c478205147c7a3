"""`advisor doctor`: what was found on this machine, and what to do about what was not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from advisor import __version__
from advisor.cli.output import emit, output_options, render_rows, to_json
from advisor.errors import AdvisorError


@click.command()
@output_options()
def command(*, format_: str, output: Path | None) -> None:
    """Tell what was found: driver and GPU, torch, profiles, models, data. Always exits 0: it only reports."""
    rows = list(_findings())
    emit(to_json({"schema_version": 1, "findings": rows}) if format_ == "json" else render_rows(rows, format_), output)


def _findings() -> Iterator[dict[str, Any]]:
    yield _row("advisor", True, f"{__version__} on Python {platform.python_version()}, {platform.system()}")
    yield _gpu()
    yield _package("torch", "tracing your own models", "pip install 'batchwave[torch]'")
    yield _package("triton", "measuring Triton kernels", "pip install 'batchwave[torch]'")
    yield _cuda()
    yield _profiles()
    yield _measured()
    yield _models()
    data = os.environ.get("BATCHWAVE_DATA")
    yield _row("data", bool(data), data or "BATCHWAVE_DATA is unset: only `python -m bench fit` and some tests need it")
    planned = os.environ.get("ADVISOR_GPU")
    yield _row("ADVISOR_GPU", bool(planned), planned or "unset: without a local GPU, A100-SXM4-80GB is planned for")


def _row(what: str, found: bool, detail: str) -> dict[str, str]:
    return {"what": what, "found": "yes" if found else "no", "detail": detail}


def _gpu() -> dict[str, str]:
    from advisor.gpus import resolve_gpu

    try:
        found = resolve_gpu("local")
    except AdvisorError as error:
        return _row("NVML and driver", False, str(error))
    free = "free memory unknown" if found.free_bytes is None else f"{found.free_bytes / 2**30:.1f} GiB free"
    return _row("NVML and driver", True, f"{found.gpu.name}, {found.gpu.sms} SMs, {free}")


def _package(name: str, purpose: str, cure: str) -> dict[str, str]:
    try:
        return _row(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return _row(name, False, f"only needed for {purpose}: {cure}")


def _cuda() -> dict[str, str]:
    if importlib.util.find_spec("torch") is None:
        return _row("CUDA in torch", False, "torch is not installed")
    import torch

    if torch.version.cuda is None:
        return _row("CUDA in torch", False, f"torch {torch.__version__} is a CPU build; tracing works with it")
    if not torch.cuda.is_available():
        return _row("CUDA in torch", False, f"built for CUDA {torch.version.cuda}, but no device can be used")
    return _row("CUDA in torch", True, f"CUDA {torch.version.cuda}, {torch.cuda.device_count()} device(s)")


def _profiles() -> dict[str, str]:
    from advisor.profile import shipped_profiles

    names = shipped_profiles()
    return _row("profiles", bool(names), f"{len(names)} shipped: {', '.join(names)}")


def _measured() -> dict[str, str]:
    from advisor.user_profiles import profiles_folder, stored_profiles

    stored, folder = stored_profiles(), profiles_folder()
    if not stored:
        return _row(
            "measured profiles", False, f"none in {folder}: `advisor bench --quick` measures this GPU in a minute"
        )
    damaged = sum(entry.profile is None for entry in stored)
    return _row("measured profiles", True, f"{len(stored)} in {folder}{f', {damaged} damaged' * bool(damaged)}")


def _models() -> dict[str, str]:
    from advisor.workload.catalogue import catalogue_names

    names = catalogue_names()
    return _row("models", bool(names), f"{len(names)} shipped; `advisor models` lists them")
