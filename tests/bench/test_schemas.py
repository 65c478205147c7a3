from __future__ import annotations

import pytest

from bench.schemas import FOLDER, RECORDS, schema


@pytest.mark.parametrize("name", RECORDS)
def test_the_published_schema_is_that_of_the_record(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == schema(RECORDS[name]), "run `python -m bench schemas`"
