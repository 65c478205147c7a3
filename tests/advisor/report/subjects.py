"""Subjects of reports on GPUs of the table: what a section is given, without anything measured unless it is given."""

from __future__ import annotations

from dataclasses import replace

from advisor.gpus import resolve_gpu
from advisor.loading import profiles_for
from advisor.recommendation import recommend
from advisor.report.records import Figure, Section
from advisor.report.subject import Measured, Subject


def subject(gpu: str, *models: str, sms: int | None = None, measured: Measured | None = None) -> Subject:
    """A GPU by name, with another number of SMs where that is given, and models of the catalogue."""
    resolved = resolve_gpu(gpu)
    profiles = profiles_for(resolved)
    decided = tuple(recommend(model, gpu=gpu) for model in models)
    if sms is not None:
        resolved = replace(resolved, gpu=replace(resolved.gpu, sms=sms))
    return Subject(resolved, profiles, decided, measured or Measured())


def figure(found: Section | None, id_: str) -> Figure:
    """One figure of a section, by its id."""
    assert found is not None
    return next(each for each in found.figures if each.id == id_)
