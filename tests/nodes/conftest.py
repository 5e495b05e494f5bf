"""Clusters for tests: one that a module's tests share, and those that a test may break."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nodes.cluster import NODES, Cluster
from tests.support.postgres import Postgres

MakeCluster = Callable[..., Cluster]


@pytest.fixture(scope="module")
def cluster(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Running nodes for all tests of a module, which leave them running and use clients of their own."""
    settings = {"STUI_SESSIONS_CLEANUP_INTERVAL": "1"}
    with Cluster(tmp_path_factory.mktemp("cluster"), postgres, NODES, settings=settings) as made:
        yield made


@pytest.fixture
def make_cluster(postgres_installed: None, tmp_path: Path) -> Iterator[MakeCluster]:
    """A maker of running clusters with a PostgreSQL of their own: `make_cluster(3, standby="synchronous")`.

    The one before is ended first: a big run makes many.
    """
    made: list[tuple[Cluster, Postgres]] = []

    def make(nodes: int, **options: Any) -> Cluster:
        end()
        # A standby that has lost its primary tries again so often; by default every five seconds.
        primary = Postgres({"wal_retrieve_retry_interval": "200ms"})
        try:
            cluster = Cluster(tmp_path / f"cluster{len(made)}", primary.start(), nodes, **options)
        except BaseException:
            primary.remove()
            raise
        made.append((cluster, primary))
        return cluster.start()

    def end() -> None:
        for cluster, primary in made[-1:]:
            print(f"--- log of PostgreSQL\n{cluster.primary.log()[-5000:]}", file=sys.stderr)
            cluster.close()
            primary.remove()

    yield make
    end()
