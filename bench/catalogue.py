"""Builds the shipped catalogue: one file per model, from the public definitions, by `python -m bench catalogue`.

Needs torch, torchvision and transformers of the pinned set (constraints.txt). The same versions give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.errors import UnknownNameError
from advisor.files import write_atomically
from advisor.workload.catalogue import CATALOGUE, encode_workload

if TYPE_CHECKING:
    from advisor.workload.schema import Workload
    from advisor.workload.sources import Source

TORCHVISION = {  # name: printed title
    "resnet18": "ResNet-18", "resnet34": "ResNet-34", "resnet50": "ResNet-50", "resnet101": "ResNet-101",
    "resnet152": "ResNet-152", "resnext50_32x4d": "ResNeXt-50 32x4d", "wide_resnet50_2": "Wide ResNet-50-2",
    "vgg16": "VGG-16", "densenet121": "DenseNet-121", "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_large": "MobileNetV3-Large", "efficientnet_b0": "EfficientNet-B0",
    "efficientnet_b4": "EfficientNet-B4", "convnext_tiny": "ConvNeXt-Tiny", "convnext_base": "ConvNeXt-Base",
    "vit_b_16": "ViT-B/16", "vit_l_16": "ViT-L/16", "swin_t": "Swin-T",
}  # fmt: skip
TRANSFORMERS = {  # name: (published size, sequence length, printed title)
    "bert-base-128": ("bert-base", 128, "BERT-Base, sequences of 128"),
    "bert-base-512": ("bert-base", 512, "BERT-Base, sequences of 512"),
    "bert-large-128": ("bert-large", 128, "BERT-Large, sequences of 128"),
    "bert-large-512": ("bert-large", 512, "BERT-Large, sequences of 512"),
    "gpt2": ("gpt2", 1024, "GPT-2 (124M), sequences of 1024"),
    "gpt2-medium": ("gpt2-medium", 1024, "GPT-2 Medium (355M), sequences of 1024"),
    "t5-small": ("t5-small", 512, "T5-Small, 512 tokens in and out"),
}
NAMES = (*TORCHVISION, "unet", *TRANSFORMERS)


def main(argv: list[str] | None = None) -> int:
    """Write catalogue files; the names of the models, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench catalogue", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to build (default: all)")
    parser.add_argument("--output", type=Path, default=CATALOGUE, help="folder to write to (default: the shipped one)")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.names or NAMES:
        start = time.perf_counter()
        path = options.output / f"{name}.json"
        content = encode_workload(build(name))
        write_atomically(path, content)
        print(f"{path} {len(content) / 1e3:.0f} kB, {time.perf_counter() - start:.1f} s", file=sys.stderr)
    return 0


def build(name: str) -> Workload:
    """Trace one model in every way the catalogue ships; three batch sizes verify each."""
    import dataclasses

    from advisor.workload import sources
    from advisor.workload.trace import VariantSpec

    if name not in NAMES:
        raise UnknownNameError("catalogue model", name, NAMES, "`advisor models` lists them.")
    if name in TORCHVISION:
        source = dataclasses.replace(sources.from_torchvision(name), title=TORCHVISION[name])
    elif name in TRANSFORMERS:
        size, seq_len, title = TRANSFORMERS[name]
        source = dataclasses.replace(sources.from_transformers(size, None, seq_len), title=title)
    else:
        source = unet_source()
    variants = [
        VariantSpec(mode, precision, layout, attention)
        for mode in ("train", "infer")
        for precision in ("amp", "fp32")
        for layout in ("nhwc", "nchw")
        for attention in ("fused", "unfused")
    ]
    return source.trace_variants(name, variants)


def unet_source() -> Source:
    """The U-Net of the paper, on 256 x 256 grey images."""
    import torch

    from advisor.workload.sources import Source
    from bench.unet import UNet

    with torch.device("meta"):
        module = UNet()
    return Source(
        module,
        (1, 256, 256),
        title="U-Net",
        task="segmentation",
        origin="arXiv:1505.04597, figure 1, with padded convolutions and 2 classes",
    )


if __name__ == "__main__":
    sys.exit(main())
