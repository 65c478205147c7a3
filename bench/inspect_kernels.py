"""`python -m bench inspect`: what the compiler makes of the shipped kernels for one architecture, as JSON.

No GPU is needed. The child that `advisor kernels inspect` starts; the shapes, the waves and the printing are its.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from advisor.errors import AdvisorError, BadInputError, MissingDependencyError
from advisor.occupancy import resident_blocks, sm_limits
from kernels.choice import Curated
from kernels.compile import (
    CompileError,
    CubinFacts,
    MissingToolError,
    UnknownArchitectureError,
    architecture_name,
    compile_all,
    parse_architecture,
)
from kernels.spec import KernelSpec

if TYPE_CHECKING:
    from kernels.conv2d import ConvPass
    from kernels.matmul import Layout

PASSES: dict[str, ConvPass] = {"conv_forward": "forward", "conv_dgrad": "dgrad", "conv_wgrad": "wgrad"}
KERNELS = ("matmul", *PASSES)
LAYOUTS: tuple[Layout, ...] = ("nn", "nt", "tn", "tt")
DTYPES = ("fp16", "bf16")
SCHEMA_VERSION = 1
TENSOR_MEMORY_COLUMNS = 512  # of an SM of 10.x (PTX ISA, "Tensor Memory")


class KernelCompileError(AdvisorError):
    """A shipped kernel does not compile with the Triton that is installed."""


@dataclass(frozen=True)
class Residency:
    """CTAs that one SM holds at once, and the resource that stops the next; 0 where the launch is refused."""

    ctas: int
    limiter: str  # "threads", "blocks", "registers", "shared memory" or "tensor memory"


def resident_ctas(facts: CubinFacts, capability: tuple[int, int] | None = None) -> Residency:
    """Resident CTAs of a compiled kernel, by the rules of `advisor.occupancy` (default: where it was compiled for).

    A CTA whose columns of Tensor Memory are taken does start, but waits until they are free: it does not count.
    """
    found = resident_blocks(
        sm_limits(capability or facts.capability),
        threads=facts.threads,
        registers=facts.registers,
        shared_memory_bytes=facts.shared_bytes,
    )
    ctas, limiter = int(found.blocks_per_sm), str(found.limiter)
    if facts.tensor_memory_columns and TENSOR_MEMORY_COLUMNS // facts.tensor_memory_columns < ctas:
        return Residency(TENSOR_MEMORY_COLUMNS // facts.tensor_memory_columns, "tensor memory")
    return Residency(ctas, limiter)


def shipped_configs(kernel: str, capability: tuple[int, int]) -> tuple[Curated[Any], ...]:
    """The curated configurations of a kernel of `KERNELS`."""
    from kernels.configs import conv_configs, matmul_configs

    if kernel == "matmul":
        return matmul_configs(capability)
    return conv_configs(capability, PASSES[kernel])


def kernel_spec(
    kernel: str, config: Any, capability: tuple[int, int], *, dtype: str = "fp16", layout: Layout = "nn",
    aligned: bool = True,
) -> KernelSpec:  # fmt: skip
    """What is compiled of one configuration of a kernel of `KERNELS`; `layout` is of a matrix product's operands."""
    if kernel == "matmul":
        from kernels.matmul import matmul_spec

        return matmul_spec(config, dtype=dtype, layout=layout, aligned=aligned, capability=capability)
    from kernels.conv2d import conv_spec

    return conv_spec(PASSES[kernel], config, dtype=dtype, aligned=aligned, capability=capability)


def compile_quietly(specs: Sequence[KernelSpec], capability: tuple[int, int]) -> list[CubinFacts]:
    """`compile_all` with the errors of this package; Triton's listing of what ptxas refused is not printed.

    Raises BadInputError, MissingDependencyError, KernelCompileError.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return compile_all(specs, capability)
    except UnknownArchitectureError as error:
        raise BadInputError(str(error)) from None
    except MissingToolError as error:
        raise MissingDependencyError(f"{error}; `pip install 'batchwave[torch]'` brings both") from None
    except CompileError as error:
        raise KernelCompileError(str(error)) from None


def inspect(
    kernels: Sequence[str], capability: tuple[int, int], *, dtype: str = "fp16", layout: Layout = "nn",
    aligned: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Facts of every shipped configuration of some kernels, as plain data.

    aligned False: as for sizes that are no multiples of 8; tensor descriptors cannot take those and are left out.
    Raises MissingDependencyError without Triton and PyTorch, KernelCompileError where Triton refuses a kernel.
    """
    try:
        import torch  # noqa: F401  # the kernels' wrappers import it
        import triton
    except ImportError as error:
        raise MissingDependencyError(
            f"inspecting kernels needs {error.name}, which is not installed: `pip install 'batchwave[torch]'`"
        ) from None
    chosen = [
        (kernel, entry)
        for kernel in kernels
        for entry in shipped_configs(kernel, capability)
        if aligned or getattr(entry.config, "variant", "plain") != "descriptor"
    ]
    specs = [
        kernel_spec(kernel, entry.config, capability, dtype=dtype, layout=layout, aligned=aligned)
        for kernel, entry in chosen
    ]
    rows = []
    for (kernel, entry), facts in zip(chosen, compile_quietly(specs, capability), strict=True):
        residency = resident_ctas(facts)
        figures = {**asdict(facts), "global_loads": {str(bits): n for bits, n in facts.global_loads.items()}}
        rows.append(
            {
                "kernel": kernel,
                "config": asdict(entry.config),
                "reason": entry.reason,
                **{key: value for key, value in figures.items() if key not in ("capability", "tile")},
                "spills": facts.spills,
                "wide_loads": facts.wide_loads,
                "narrow_loads": facts.narrow_loads,
                "resident_ctas": residency.ctas,
                "limiter": residency.limiter,
            }
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "architecture": architecture_name(capability),
        "compute_capability": list(capability),
        "triton": triton.__version__,
        "dtype": dtype,
        "layout": layout,
        "aligned": aligned,
        "rows": rows,
    }


def main(argv: list[str] | None = None) -> int:
    """Compile the shipped kernels for one architecture and print their facts as JSON. No GPU is needed."""
    parser = argparse.ArgumentParser(prog="python -m bench inspect", description=main.__doc__)
    parser.add_argument("--arch", required=True, help="sm_70 ... sm_121")
    parser.add_argument("--kernel", action="append", choices=KERNELS, help="may be given again; default: all of them")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0])
    parser.add_argument("--layout", choices=LAYOUTS, default=LAYOUTS[0], help="of a matrix product's A and B")
    parser.add_argument("--unaligned", action="store_true", help="as for sizes that are no multiples of 8")
    options = parser.parse_args(argv)
    try:
        capability = parse_architecture(options.arch)
    except UnknownArchitectureError as error:
        raise BadInputError(str(error)) from None
    os.environ.pop("TRITON_INTERPRET", None)  # an interpreted kernel cannot be compiled, and none runs here
    found = inspect(
        options.kernel or KERNELS, capability, dtype=options.dtype, layout=options.layout, aligned=not options.unaligned
    )
    json.dump(found, sys.stdout, indent=1)
    print()
    return 0
