"""Settings shared by all tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("project", deadline=None)  # the first call may compile or load a table
settings.load_profile("project")
