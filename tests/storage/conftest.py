"""Fixtures for the tests of stores."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.storage.stores import LocalMaker, Maker, MemoryMaker


@pytest.fixture(params=["memory", "local"])
async def maker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Maker]:
    made: Maker = MemoryMaker() if request.param == "memory" else LocalMaker(tmp_path)
    yield made
    await made.tear_down()


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalMaker]:
    made = LocalMaker(tmp_path)
    yield made
    await made.tear_down()
