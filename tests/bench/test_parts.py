"""The parts of the benchmark that need no server."""

import json
import random

import pytest

from stui_sessions.bench.histogram import Histogram
from stui_sessions.bench.load import Lane, Load, errors_among
from stui_sessions.bench.requests import KINDS, Kind, parse_mix, state_text
from stui_sessions.client import ConnectionLost, SessionServerError
from stui_sessions.commands import REGISTRY
from tests.client.fake_server import error_line


@pytest.mark.parametrize("scale", [1, 100, 10_000, 10_000_000])
def test_percentiles_are_right_to_one_percent(scale: int) -> None:
    rng = random.Random(scale)
    values = sorted(int(rng.expovariate(1 / scale)) for _ in range(10_001))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    assert histogram.count == len(values)
    assert histogram.max == values[-1]
    for percent in (0, 1, 50, 99, 99.9, 100):
        exact = values[max(0, -(-int(percent * len(values)) // 100) - 1)]
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.02, abs=1)
    assert histogram.percentile(100) == values[-1]


def test_small_values_are_exact() -> None:
    histogram = Histogram()
    for value in range(256):
        histogram.add(value)
    assert [histogram.percentile(100 * (n + 1) / 256) for n in range(256)] == list(range(256))


def test_an_empty_histogram_and_merging() -> None:
    empty, some = Histogram(), Histogram()
    assert empty.percentile(99) == 0
    some.add(5)
    some.add(5000)
    empty.merge(some)
    assert (empty.count, empty.max, empty.percentile(50)) == (2, 5000, 5)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [1, 7])
def test_bursts_are_valid_requests(name: str, size: int) -> None:
    subjects = ['a "quoted" id', "é", "c"]
    burst = Kind(name, subjects, 50, random.Random(1)).burst(size)
    lines = burst.split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == size
    command, parameter = KINDS[name]
    for line in lines:
        request = json.loads(line)
        assert request["command"] == command
        parameters = request.get("parameters", {})
        assert not parameter or parameters[parameter] in subjects
        assert set(REGISTRY[command].required) <= set(parameters)


def test_the_kinds_are_commands() -> None:
    for command, parameter in KINDS.values():
        assert not parameter or parameter in REGISTRY[command].parameters


@pytest.mark.parametrize("size", [11, 12, 200])
def test_states_have_the_size_that_was_asked_for(size: int) -> None:
    text = state_text(size, random.Random(1))
    assert len(text) == size
    assert isinstance(json.loads(text), dict)


def test_a_mix_is_weights_by_kind() -> None:
    assert parse_mix("update=7, info=2,restore=0.5,ping") == {"update": 7, "info": 2, "restore": 0.5, "ping": 1}


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("", "no kind"),
        ("updat=1", "update"),
        ("update=x", "number"),
        ("update=0", "above 0"),
        ("update=-1", "above 0"),
        ("update=nan", "above 0"),
        ("update=inf", "above 0"),
        ("update,update", "twice"),
    ],
)
def test_a_wrong_mix_is_explained(mix: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_mix(mix)


def test_only_error_replies_count_as_errors() -> None:
    good = b'{"id":1,"status":"success","result":{"session_state":{"error_type":1}},"timestamp":""}\n'
    bad = error_line(1, "SessionNotFound", "session_expired")
    assert [reply.error_code for reply in errors_among(good + bad + good)] == ["session_expired"]


@pytest.mark.parametrize("told", [True, False])
async def test_a_connection_that_is_lost_says_why(told: bool) -> None:
    load = Load([Kind("ping", [], 0, random.Random(1))], [1], 1, 1.0, random.Random(1))
    lane = Lane(load)
    if told:
        lane.data_received(error_line(None, "RuntimeError", "too_many_connections"))
    lane.connection_lost(None)
    assert isinstance(load.failure, SessionServerError if told else ConnectionLost)
    assert load.stopping
