"""The U-Net of Ronneberger, Fischer and Brox 2015 (arXiv:1505.04597), figure 1.

As in the paper: pairs of 3x3 convolutions with ReLU, 64 to 1024 channels, 2x2 max pooling, 2x2 up-convolutions, skip
connections, dropout at the end of the contracting path, 1 channel in, 2 classes out. Unlike it, convolutions are
padded, so that the output has the input's size and skips need no cropping.
"""

from __future__ import annotations

import torch
from torch import nn

WIDTHS = (64, 128, 256, 512, 1024)


class UNet(nn.Module):
    """x[B, 1, H, W] to logits[B, 2, H, W]; H and W multiples of 2^(levels - 1), 16 as in the paper."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.down = nn.ModuleList(_pair(i, o) for i, o in zip((1, *widths), widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(0.5)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(_pair(2 * w, w) for w in reversed(widths[:-1]))
        self.classify = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Contract, expand beside the skips, classify each pixel."""
        skips = []
        for level, pair in enumerate(self.down):
            x = pair(self.pool(x) if level else x)
            if level >= len(self.down) - 2:
                x = self.dropout(x)
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat((skips.pop(), up(x)), dim=1))
        found: torch.Tensor = self.classify(x)
        return found


def _pair(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True),
    )  # fmt: skip
