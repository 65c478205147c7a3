"""Element types as traces name them."""

from __future__ import annotations

_NAMES = {
    "c10::half": ("fp16", 2), "half": ("fp16", 2), "c10::bfloat16": ("bf16", 2), "bfloat16": ("bf16", 2),
    "float": ("fp32", 4), "double": ("fp64", 8), "c10::float8_e4m3fn": ("fp8", 1), "c10::float8_e5m2": ("fp8", 1),
    "signed char": ("int8", 1), "char": ("int8", 1), "unsigned char": ("uint8", 1), "short": ("int16", 2),
    "short int": ("int16", 2), "int": ("int32", 4), "long": ("int64", 8), "long int": ("int64", 8),
    "long long": ("int64", 8), "c10::complex<float>": ("complex64", 8), "c10::complex<double>": ("complex128", 16),
    "bool": ("bool", 1),
}  # fmt: skip


def element_type(name: str) -> tuple[str, int]:
    """(name, bytes) of an element type, "c10::Half" or "float"; FP32, PyTorch's default, where nothing is said."""
    return _NAMES.get(name.strip().lower(), ("fp32", 4))
