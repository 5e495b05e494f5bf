"""Decoding has a quick proof that a line is good; it accepts and refuses just what the thorough check does."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from stui_sessions.commands import REGISTRY
from stui_sessions.errors import Refusal
from stui_sessions.protocol.explain import (
    check_envelope,
    check_parameters,
)
from stui_sessions.protocol.jsontext import check_text
from stui_sessions.protocol.messages import (
    Malformed,
    WireLimits,
)
from tests.protocol.lines import GOOD, LIMITS, SEED, decode, line_of, required

# -- the quick proof against the thorough check

LINES = [
    *SEED,
    *[line_of(name, required(name)) for name in REGISTRY.names],
    *[line_of(c.name, {p: GOOD[p] for p in c.parameters}) for c in REGISTRY],
    b'{"id":"1","command":"ping"}',
    b'{"id":1,"command":"ping","parameters":{}}',
    b'{"id":"1","command":"open_session"}',
    b'{"id":"1","command":"restore_session"}',
    b'{"id":1,"command":"restore_session","parameters":{}}',
    b'{"id":"1","command":"touch_session","parameters":{"external_id":"a","user_id":"b"}}',
    b'{"id":"1","command":"update_session_state","parameters":{"external_id":"a","state_data":{"k":1}}}',
    b'{"id":"1","command":"update_session","parameters":{"session_id":"a","title":null,"metadata":{"k":null}}}',
    b'{"id":"1","command":"open_session","parameters":{"metadata":{"k":":"},"session_state":{"k":{"l":1}}}}',
    b'{"id":"1","command":"list_sessions","parameters":{"tags":["a",":"],"limit":5}}',
    b'{"id":"1","command":"update_session_state","parameters":{"session_id":"a","state_data":{}}}',
    b'{"id":"1","command":"update_session_state","parameters":{"session_id":"a","state_data":{"a":[[[[[[]]]]]]}}}',
    b'{"id":"1","command":"update_session_state","parameters":{"session_id":"a","state_data":{"k":1,"l":{"m":2}}}}',
    b'{"id":"1","command":"update_session_state","parameters":{"session_id":"a","mode":"replace","state_data":{},'
    b'"workspace_context":{"a":1},"inspector_state":{},"object_registry":{"b":":"}}}',
    b'{"id":"1","command":"update_session_state","parameters":{"session_id":"a","state_data":{'
    + b",".join(b'"%d":[{"k":":","l":[[]]}]' % i for i in range(20))
    + b"}}}",
    b'{"id":"1","command":"create_session","parameters":{"client_id":"c","timeout":5,"session_state":{"a":"b"}}}',
]

TOKENS = [
    *[b"{", b"}", b"[", b"]", b"[[[[", b"]]]]", b'"', b":", b",", b"\\", b" ", b"\x00", b"\xff", b"\x01", b"\x7f"],
    *[b"1", b"-", b".", b"e", b"1e400", b"9" * 309, b"9" * 400, b"1" * 6000, b"NaN", b"null", b"true", b"01"],
    *[b'"a":1,', b'"a":1', b',"a":1', b'"id":"1",', b',"command":"ping"', b'"session_id":"a",', b"{}", b"[]"],
    *[b'"external_id":"a",', b'"metadata":{},', b'"title":null,', b'"tags":[":"],', b'"parameters":{},', b"false"],
    *[b"\\u003a", b"\\u0061", b"\\ud800", b"\\udc00", b"\\ud83d\\ude00", b"\xed\xa0\x80", b"\xc3\xa9", b'"\\u003a":1,'],
]


def edited(line: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, length, token in edits:
        at %= len(line) + 1
        line = line[:at] + token + line[at + length :]
    return line


Verdict = tuple[str, dict[str, tuple[str, ...]]] | None
"""The command and the keys of each state object; None: refused.

Of a line that breaks two rules, the two ways may tell one or the other.
"""


def thorough(line: bytes, limits: WireLimits) -> Verdict:
    """What the rules say of a line, without any short cut."""
    try:
        message = check_text(line, limits.max_depth)
        check_envelope(message)
        command = REGISTRY.find(message["command"])
        parameters = message.get("parameters", {})
        check_parameters(command, parameters)
    except Refusal:
        return None
    return command.name, {n: tuple(parameters[n]) for n in command.state_parameters if n in parameters}


def by_decoding(line: bytes, limits: WireLimits) -> Verdict:
    try:
        request = decode(line, limits)
    except Malformed:
        return None
    states = {n: getattr(request.parameters, n) for n in request.command.state_parameters}
    return request.command.name, {n: s.keys for n, s in states.items() if s is not UNSET}


@settings(max_examples=1500)
@given(
    line=st.sampled_from(LINES),
    edits=st.lists(
        st.tuples(st.integers(0, 300), st.sampled_from([0, 0, 0, 1, 2, 5]), st.sampled_from(TOKENS)), max_size=3
    ),
    max_depth=st.sampled_from([8, 9, 128]),
)
@example(line=LINES[-6], edits=[(80, 2, b'{"":[]}')], max_depth=8)
def test_decoding_accepts_and_refuses_what_the_thorough_check_does(
    line: bytes, edits: list[tuple[int, int, bytes]], max_depth: int
) -> None:
    limits = WireLimits(max_depth=max_depth)
    line = edited(line, edits)
    assert by_decoding(line, limits) == thorough(line, limits)


members = st.recursive(
    st.sampled_from(["1", "-0", '""', '":"', "null", "{}", "[]", "9" * 309, '"\\u003a"', '"\\ud800"', '"é"', "1e400"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda items: f"[{','.join(items)}]"),
        st.lists(st.tuples(st.sampled_from(["a", "b", "\\u0061", ":", "\\u003a"]), inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f'"{key}":{value}' for key, value in pairs) + "}"
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=1000)
@given(
    values=st.lists(
        st.tuples(st.sampled_from(["session_id", "state_data", "state_data", "mode", "workspace_context"]), members),
        max_size=4,
    ),
    named=st.sampled_from([['"session_id":"a"'], ['"external_id":"a"'], []]),
    extra=st.sampled_from(["", '"id":"2",', '"parameters":{},', '"x":1,']),
    max_depth=st.sampled_from([8, 128]),
)
def test_no_way_to_write_an_update_fools_the_quick_proof(
    values: list[tuple[str, str]], named: list[str], extra: str, max_depth: int
) -> None:
    limits = WireLimits(max_depth=max_depth)
    parameters = ",".join([*named, *(f'"{name}":{value}' for name, value in values)])
    line = f'{{"id":"1",{extra}"command":"update_session_state","parameters":{{{parameters}}}}}'.encode()
    assert by_decoding(line, limits) == thorough(line, limits)


@given(st.binary(max_size=80))
def test_any_bytes_become_a_request_or_a_refusal_and_nothing_else(line: bytes) -> None:
    by_decoding(line, LIMITS)


def test_the_object_that_is_proven_quickly_is_the_one_that_requests_most_often_bring() -> None:
    quick = {c.name: c.main_state for c in REGISTRY if c.main_state}
    assert quick == {
        "open_session": "session_state",
        "create_session": "session_state",
        "update_session_state": "state_data",
        "update_session": "metadata",
    }


@pytest.mark.parametrize("max_depth", [8, 9, 128, 512])
def test_no_text_that_is_short_breaks_a_limit(max_depth: int) -> None:
    """What the quick proof rests on, at the edge."""
    limits = WireLimits(max_depth=max_depth)
    for depth in range(max(1, limits.max_depth - 4), limits.max_depth + 1):
        state = b'{"":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
        line = b'{"id":"1","command":"update_session_state","parameters":{"session_id":"a","state_data":%b}}' % state
        assert (by_decoding(line, limits) is not None) == (depth + 2 <= max_depth)
    assert limits.short_text < 309
