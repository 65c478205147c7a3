"""Gathers a report: resolves the GPU, decides for every model, reads what was measured, asks each section in turn."""

from __future__ import annotations
