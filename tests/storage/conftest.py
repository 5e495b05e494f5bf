"""Fixtures for the tests of stores."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.storage.stores import Maker, MemoryMaker, SqliteMaker


@pytest.fixture(params=["memory", "sqlite"])
async def maker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Maker]:
    made: Maker = MemoryMaker() if request.param == "memory" else SqliteMaker(tmp_path)
    yield made
    await made.tear_down()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteMaker]:
    made = SqliteMaker(tmp_path)
    yield made
    await made.tear_down()
