"""Fixtures for the tests of stores."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.storage.stores import LocalMaker, Maker, MemoryMaker, PostgresMaker


@pytest.fixture(params=["memory", "local", "postgres"])
async def maker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Maker]:
    made: Maker
    if request.param == "memory":
        made = MemoryMaker()
    elif request.param == "local":
        made = LocalMaker(tmp_path)
    else:
        made = PostgresMaker(request.getfixturevalue("database_url"))
        await made.prepare()
    yield made
    await made.tear_down()


@pytest.fixture(params=["memory", "local"])
async def own(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Maker]:
    """Stores that belong to one server."""
    made: Maker = MemoryMaker() if request.param == "memory" else LocalMaker(tmp_path)
    yield made
    await made.tear_down()


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalMaker]:
    made = LocalMaker(tmp_path)
    yield made
    await made.tear_down()
