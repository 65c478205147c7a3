"""Models of the catalogue in plain torch, for whole training steps on a machine that has nothing but torch.

Each runs, operation for operation, the step that the catalogue ships for its name (tests trace it and compare), so that
a measured step is a measurement of that entry. All make logits; the loss is cross entropy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bench.unet import UNet


class ResNet(nn.Module):
    """x[B, 3, H, W] to logits[B, classes]: ResNet-50 of He, Zhang, Ren and Sun 2015 (arXiv:1512.03385), table 1.

    With the stride in the 3x3 convolution of a block, as public definitions have it since 2017 ("v1.5").
    """

    def __init__(self, depths: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv_norm(3, width, 7, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
        blocks: list[nn.Module] = []
        channels = width
        for stage, depth in enumerate(depths):
            narrow = width * 2**stage
            for i in range(depth):
                blocks.append(_Bottleneck(channels, narrow, stride=2 if stage and not i else 1))
                channels = 4 * narrow
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Stem, four stages, mean over the pixels, classes."""
        found: torch.Tensor = self.classify(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))
        return found


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, narrow: int, *, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv_norm(channels, narrow, 1), nn.ReLU(inplace=True),
            *_conv_norm(narrow, narrow, 3, stride=stride), nn.ReLU(inplace=True),
            *_conv_norm(narrow, 4 * narrow, 1),
        )  # fmt: skip
        changes = stride > 1 or channels != 4 * narrow
        self.shortcut = nn.Sequential(*_conv_norm(channels, 4 * narrow, 1, stride=stride)) if changes else None
        self.activate = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        y += x if self.shortcut is None else self.shortcut(x)
        found: torch.Tensor = self.activate(y)
        return found


class MobileNetV3(nn.Module):
    """x[B, 3, H, W] to logits[B, classes]: MobileNetV3-Large of Howard and others 2019 (arXiv:1905.02244), table 1."""

    BLOCKS = (  # kernel, expanded, out, squeeze and excite, hard swish, stride
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2),
        (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2),
        (5, 120, 40, True, False, 1),
        (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1),
        (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2),
        (5, 960, 160, True, True, 1),
        (5, 960, 160, True, True, 1),
    )

    def __init__(
        self, blocks: tuple[tuple[int, int, int, bool, bool, int], ...] = BLOCKS, head: int = 1280, classes: int = 1000
    ) -> None:
        super().__init__()
        channels, layers = 16, [*_conv_norm(3, 16, 3, stride=2, **_MOBILE), nn.Hardswish(inplace=True)]
        for kernel, expanded, out, squeezes, swishes, stride in blocks:
            layers.append(_Inverted(channels, kernel, expanded, out, squeezes, swishes, stride))
            channels = out
        last = 6 * channels
        layers += [*_conv_norm(channels, last, 1, **_MOBILE), nn.Hardswish(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Sequential(
            nn.Linear(last, head), nn.Hardswish(inplace=True), nn.Dropout(0.2, inplace=True), nn.Linear(head, classes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Blocks, mean over the pixels, two linear layers."""
        found: torch.Tensor = self.classify(torch.flatten(self.pool(self.features(x)), 1))
        return found


_MOBILE: dict[str, Any] = {"eps": 1e-3, "momentum": 0.01}


class _Inverted(nn.Module):
    def __init__(
        self, channels: int, kernel: int, expanded: int, out: int, squeezes: bool, swishes: bool, stride: int
    ) -> None:
        super().__init__()
        self.adds = stride == 1 and channels == out
        activation = nn.Hardswish if swishes else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != channels:
            layers += [*_conv_norm(channels, expanded, 1, **_MOBILE), activation(inplace=True)]
        layers += _conv_norm(expanded, expanded, kernel, stride=stride, groups=expanded, **_MOBILE)
        layers.append(activation(inplace=True))
        if squeezes:
            layers.append(_SqueezeExcite(expanded))
        layers += _conv_norm(expanded, out, 1, **_MOBILE)
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        if self.adds:
            y += x
        return y


class _SqueezeExcite(nn.Module):
    """Scales each channel by what the mean of all channels says (arXiv:1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _multiple_of_8(channels / 4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = functional.hardsigmoid(self.excite(functional.relu(self.squeeze(self.pool(x)))))
        return scale * x


def _multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, not more than a tenth below (arXiv:1801.04381's reference)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class VisionTransformer(nn.Module):
    """x[B, 3, size, size] to logits[B, classes]: ViT-B/16 of Dosovitskiy and others 2020 (arXiv:2010.11929), table 1.

    Without dropout.
    """

    def __init__(  # ViT-B, patches of 16 x 16
        self, size: int = 224, patch: int = 16, width: int = 768, depth: int = 12, heads: int = 12, classes: int = 1000
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, (size // patch) ** 2 + 1, width).normal_(std=0.02))
        self.layers = nn.Sequential(*(_PreNormLayer(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.classify = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Patches as tokens behind the class token, layers, classes from that token."""
        x = self.layers(self._tokens(x))
        found: torch.Tensor = self.classify(self.norm(x)[:, 0])
        return found

    def _tokens(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.embed(x).flatten(2).transpose(1, 2)
        return torch.cat((self.class_token.expand(x.shape[0], -1, -1), patches), dim=1) + self.positions


class _PreNormLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm_1(x)
        x = self.attend(y, y, y, need_weights=False)[0] + x
        found: torch.Tensor = x + self.narrow(functional.gelu(self.widen(self.norm_2(x))))
        return found


class Bert(nn.Module):
    """Token ids[B, T] to logits[B, T, vocabulary]: BERT-Base of Devlin and others 2018 (arXiv:1810.04805).

    The encoder and the masked language model's head, whose last weight is that of the word embedding. Without a
    padding mask; all tokens of one segment.
    """

    def __init__(
        self, vocabulary: int = 30522, longest: int = 512, width: int = 768, depth: int = 12, heads: int = 12
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions = nn.Embedding(longest, width)
        self.segments = nn.Embedding(2, width)
        self.register_buffer("places", torch.arange(longest)[None])
        self.register_buffer("segment", torch.zeros(1, longest, dtype=torch.long))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.Sequential(*(_PostNormLayer(width, heads) for _ in range(depth)))
        self.transform = nn.Linear(width, width)
        self.head_norm = nn.LayerNorm(width, eps=1e-12)
        self.decode = nn.Linear(width, vocabulary)
        self.decode.weight = self.words.weight
        for embedding in (self.words, self.positions, self.segments):
            nn.init.normal_(embedding.weight, std=0.02)  # or the first logits would be in the hundreds

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embeddings, layers, head."""
        places = self.get_buffer("places")[:, : tokens.shape[1]]
        segments = torch.gather(self.get_buffer("segment"), 1, places).expand_as(tokens)
        x = self.words(tokens) + self.segments(segments) + self.positions(places)
        x = self.layers(functional.dropout(self.norm(x), 0.1, self.training))
        found: torch.Tensor = self.decode(self.head_norm(functional.gelu(self.transform(x))))
        return found


class _PostNormLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rate = 0.1 if self.training else 0.0
        q, k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(q, k, v, dropout_p=rate).transpose(1, 2)
        x = self.norm_1(functional.dropout(self.out(attended.flatten(2)), rate, self.training) + x)
        y = self.narrow(functional.gelu(self.widen(x)))
        found: torch.Tensor = self.norm_2(functional.dropout(y, rate, self.training) + x)
        return found


def _conv_norm(
    channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1, **norm: float
) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(out, **norm)]  # type: ignore[arg-type]  # floats: eps and momentum


@dataclass(frozen=True)
class Model:
    """How a model of the catalogue is built, and what one sample of it is."""

    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]  # one sample: (3, 224, 224), or (tokens,)
    classes: int
    build_small: Callable[[], nn.Module]  # the same operations in miniature
    small_shape: tuple[int, ...]
    small_classes: int
    target: str = "sample"  # what is classified: each "sample", "pixel" or "token"

    @property
    def has_images(self) -> bool:
        """Whether a layout means anything."""
        return len(self.input_shape) == 3


MODELS: dict[str, Model] = {  # catalogue id -> model
    "resnet50": Model(
        ResNet, (3, 224, 224), 1000, lambda: ResNet((1, 1), 8, 10), (3, 32, 32), 10,
    ),
    "mobilenet_v3_large": Model(
        MobileNetV3, (3, 224, 224), 1000, lambda: MobileNetV3(MobileNetV3.BLOCKS[1:4], 32, 10), (3, 32, 32), 10,
    ),
    "vit_b_16": Model(
        VisionTransformer, (3, 224, 224), 1000, lambda: VisionTransformer(32, 16, 32, 2, 2, 10), (3, 32, 32), 10,
    ),
    "bert-base-128": Model(Bert, (128,), 30522, lambda: Bert(64, 16, 32, 2, 2), (16,), 64, target="token"),
    "unet": Model(UNet, (1, 256, 256), 2, lambda: UNet((4, 8)), (1, 16, 16), 2, target="pixel"),
}  # fmt: skip


def build(name: str, *, small: bool = False) -> nn.Module:
    """The model in training mode, with fresh weights. KeyError for a name not in MODELS."""
    model = MODELS[name]
    return (model.build_small if small else model.build)().train()


def make_batch(
    name: str, batch: int, *, device: str, generator: torch.Generator, channels_last: bool, small: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs uniform in [-1, 1] or of random tokens, and random targets.

    x[batch, channels, height, width] float32, channels_last if asked, or [batch, tokens] int64; targets int64: [batch],
    [batch, height, width] or [batch, tokens].
    """
    model = MODELS[name]
    shape, classes = (model.small_shape, model.small_classes) if small else (model.input_shape, model.classes)

    def random_classes(*size: int) -> torch.Tensor:
        return torch.randint(classes, size, device=device, generator=generator)

    if not model.has_images:
        return random_classes(batch, *shape), random_classes(batch, *shape)
    x = torch.empty(
        (batch, *shape), device=device, memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    x.uniform_(-1, 1, generator=generator)
    return x, random_classes(batch, *(shape[1:] if model.target == "pixel" else ()))


def loss_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy: classes are dimension 1 of [B, C] and [B, C, H, W], and the last of [B, T, C]."""
    if logits.dim() == 3:
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return functional.cross_entropy(logits, targets)
