"""What JSON leaves open is decided once, and what is accepted comes back as it was."""

import gc
import json
import sys
from collections.abc import Callable
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stui_sessions.errors import Refusal
from stui_sessions.protocol.jsontext import check_text, depth_exceeds, merge_all, merge_with_keys

DEPTH = 128


def code_of(text: bytes, max_depth: int = DEPTH) -> str | None:
    """The code that `text` is refused with, None if it is accepted."""
    try:
        check_text(text, max_depth)
    except Refusal as refusal:
        return refusal.code
    return None


ACCEPTED = [
    b"{}",
    b"null",
    b' {"a" : [ 1 , 2 ] } ',
    b'{"a":{"a":{"a":1}}}',  # the same key, each time in another object
    b'[{"a":1},{"a":1}]',
    b'{"a":1,"A":2}',
    b'{"":1}',
    b'{"a":":","b":"::"}',
    b'{"a":"\\u003a"}',  # an escaped colon
    b'{"\\u003a":1,"b":"\\u003A"}',
    b'{"a":"\\u0000"}',
    b'{"a":"\x7f"}',
    b'{"a":"\\ud83d\\ude00"}',
    '{"a":"\U0001f600"}'.encode(),
    '{"\U0001f600":"é"}'.encode(),
    '{"a":"\ufeff"}'.encode(),  # a BOM inside a string is a character like any
    b'{"a":"\\\\ud800"}',  # a backslash, then letters
    b"-0",
    b"1.10",
    b"1e-400",
    b"0e999999",
    b"9007199254740993",
    b"1" * 40,
    b"1" * 308,
    b"-" + b"1" * 309,  # 1.1e308
    b"1" + b"0" * 308,  # 1e308
    b"0." + b"1" * 400,
    b"1" * 309 + b"e-5",
    b'{"a":"' + b"9" * 6000 + b'"}',
    b'{"' + b"9" * 400 + b'":1}',
    b'{"a":"NaN","b":"Infinity"}',
]


@pytest.mark.parametrize("text", ACCEPTED, ids=lambda text: text.decode()[:30])
def test_accepted(text: bytes) -> None:
    assert code_of(text) is None


def test_the_value_is_returned() -> None:
    assert check_text(b'{"a":[1,null,"\\u00e9"]}', DEPTH) == {"a": [1, None, "é"]}


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"b":2,"a":3}',
        b'{"a":1,"\\u0061":2}',
        b'{"\\u0061":1,"a":2}',
        b'{"\xc3\xa9":1,"\\u00e9":2}',
        b'{"":1,"":2}',
        b'{"a/b":1,"a\\/b":2}',
        b'{"x":{"a":1,"a":2}}',
        b'[[{"a":1,"a":2}]]',
        b'{"a":1,"a":{"b":":"}}',
        b'{"a":":","a":"::"}',
        b'{"a":"\\u003a","a":1}',  # the escaped colon must not make up for the lost key
        b'{"a":1,"a":1,"b":"\\u003A"}',
        b'{"\\u003a":1,"a":1,":":2}',
        b'{"b":"\\\\u003a","a":1,"a":2}',
        b'{"n":' + b"1" * 40 + b',"a":1,"a":2}',
        b'{"n":' + b"9" * 308 + b',"a":1,"a":2}',
    ],
)
def test_duplicate_keys_are_refused(text: bytes) -> None:
    assert code_of(text) == "duplicate_key"


def test_a_duplicate_key_is_named() -> None:
    with pytest.raises(Refusal) as caught:
        check_text(b'{"x":[{"the one":1,"the one":2}]}', DEPTH)
    assert caught.value.details == {"key": "the one"}
    assert '"the one"' in caught.value.text


def test_a_long_duplicate_key_is_cut() -> None:
    key = b"k" * 5000
    with pytest.raises(Refusal) as caught:
        check_text(b'{"%b":1,"%b":2}' % (key, key), DEPTH)
    assert len(caught.value.details["key"]) == 100
    assert len(caught.value.text) < 200


@pytest.mark.parametrize("inner", [b"[%b]", b'{"a":%b}', b" [ %b ] ", b'{"[[[[":%b}', b'{"a":["\\"[{",%b]}'])
@pytest.mark.parametrize("limit", [1, 2, 7, DEPTH])
def test_depth_is_refused_from_one_over_the_limit_on(inner: bytes, limit: int) -> None:
    levels = 2 if inner.count(b"%b]}") else 1

    def nested(depth: int) -> bytes:
        text = b"1"
        for _ in range(depth // levels):
            text = inner.replace(b"%b", text)
        return b"[" * (depth % levels) + text + b"]" * (depth % levels)

    assert code_of(nested(limit), limit) is None
    assert code_of(nested(limit + 1), limit) == "too_deep"


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b",".join([b"[]"] * 1000) + b"]",
        b"[" + b",".join([b'{"a":[]}'] * 1000) + b"]",
        b'["' + b"[" * 1000 + b'"]',
        b'["\\"' + b"[{" * 1000 + b'","\\\\"]',
    ],
)
def test_what_is_wide_is_not_deep(text: bytes) -> None:
    assert code_of(text, 3) is None


def test_brackets_after_a_string_that_ends_in_a_backslash_count() -> None:
    assert code_of(b'["\\\\",[[[]]]]', 3) == "too_deep"
    assert code_of(b'["\\\\\\"",[[[]]]]', 3) == "too_deep"


def test_the_limit_of_depth_is_told() -> None:
    with pytest.raises(Refusal) as caught:
        check_text(b"[[[]]]", 2)
    assert caught.value.details == {"limit": 2}


@pytest.mark.parametrize("depth", [1000, 20_000, 500_000])
def test_depth_beyond_any_stack_is_refused(depth: int) -> None:
    assert code_of(b"[" * depth + b"]" * depth) == "too_deep"
    assert code_of(b'{"a":' * depth + b"1" + b"}" * depth) == "too_deep"


@given(st.recursive(st.text(alphabet='[]{}"\\:a'), lambda inner: st.lists(inner, max_size=3), max_leaves=12))
def test_depth_is_that_of_the_value(value: Any) -> None:
    def depth_of(value: Any) -> int:
        return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0

    text = json.dumps(value).encode()
    depth = depth_of(value)
    assert not depth_exceeds(text, value, depth)
    assert depth == 0 or depth_exceeds(text, value, depth - 1)


@pytest.mark.parametrize(
    "number",
    [
        b"2" + b"0" * 308,  # 309 digits: 2e308
        b"-2" + b"0" * 308,
        b"1" * 310,
        b"1" * 400,
        b"1" * 6000,  # beyond the digits that Python converts
        b"9" * 309,
        b"1e400",
        b"-1e309",
        b"1E+400",
        b"1" * 400 + b".5",
        b"1" * 400 + b"e0",
    ],
    ids=lambda number: f"{number[:8].decode()}({len(number)})",
)
@pytest.mark.parametrize("frame", [b"%b", b'{"a":%b}', b'{"a":[0,%b ]}', b'{"s":"1","a":{"b":%b}}'])
def test_numbers_beyond_a_double_are_refused(number: bytes, frame: bytes) -> None:
    assert code_of(frame % number) == "number_out_of_range"


def test_the_largest_double_is_the_limit_for_integers() -> None:
    largest = int(sys.float_info.max)
    assert code_of(b"%d" % largest) is None
    assert code_of(b"%d" % (largest * 10)) == "number_out_of_range"
    # What rounds to the largest double fits, what rounds to infinity does not (IEEE 754).
    half = (2**1024 - largest) // 2
    assert code_of(b"%d" % (largest + half - 1)) is None
    assert code_of(b"%d" % (largest + half)) == "number_out_of_range"


@pytest.mark.parametrize("name", [b"NaN", b"Infinity", b"-Infinity", b"nan", b"inf", b"-inf"])
@pytest.mark.parametrize("frame", [b'{"a":%b}', b'{"a": %b}', b'{"a":[1,%b]}', b'{"a":[%b]}'])
def test_nan_and_infinity_are_not_json(name: bytes, frame: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        check_text(frame % name, DEPTH)
    assert caught.value.code == "invalid_json"
    assert "NaN and Infinity are not JSON" in caught.value.text


@pytest.mark.parametrize(
    "escape",
    [
        b"\\ud800",
        b"\\uDBFF",
        b"\\udc00",
        b"\\uDFFF",
        b"\\ud800x",
        b"\\ud800\\u0041",
        b"\\ud800\\ud800",
        b"\\ude00\\ud83d",  # the two halves, the wrong way round
        b"\\ud83d\\ude00\\ude00",
    ],
)
@pytest.mark.parametrize(
    "frame",
    [
        *[b'{"a":"%b"}', b'{"%b":1}', b'{"a":["%b"]}'],
        *[b'{"a":"%b","n":' + b"1" * digits + b"}" for digits in (40, 5000)],
    ],
    ids=["value", "key", "nested", "beside a long integer", "beside a huge integer"],
)
def test_half_a_surrogate_pair_is_refused(escape: bytes, frame: bytes) -> None:
    assert code_of(frame % escape) == "lone_surrogate"


@pytest.mark.parametrize(
    "octets",
    [
        b"\xff",
        b"\x80",
        b"\xc3",  # cut off
        b"\xc0\x80",  # an overlong NUL
        b"\xe0\x80\xaf",  # an overlong slash
        b"\xed\xa0\x80",  # a surrogate, as CESU-8 writes it
        b"\xed\xa0\xbd\xed\xb8\x80",  # a pair of them
        b"\xf4\x90\x80\x80",  # beyond U+10FFFF
        b"\xf8\x88\x80\x80\x80",
    ],
)
@pytest.mark.parametrize("frame", [b'{"a":"%b"}', b'{"%b":1}', b'{"a":["x","%b"]}', b'{"a":%b}', b"%b{}", b'{"a":1}%b'])
def test_what_is_not_utf8_is_refused(octets: bytes, frame: bytes) -> None:
    assert code_of(frame % octets) == "invalid_utf8"


@pytest.mark.parametrize("octet", [0, 1, 8, 9, 10, 13, 27, 31])
def test_raw_control_characters_in_strings_are_not_json(octet: int) -> None:
    assert code_of(b'{"a":"x%cy"}' % octet) == "invalid_json"
    assert code_of(b'{"x%cy":1}' % octet) == "invalid_json"
    assert code_of(b'{"a":"x\\u%04xy"}' % octet) is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"\x00",
        b'\x00{"a":1}',
        b'{"a":1}\x00',
        b'\xef\xbb\xbf{"a":1}',  # a BOM (RFC 8259 section 8.1)
        b"\xff\xfe{\x00}\x00".replace(b"\xff\xfe", b""),  # UTF-16 without its BOM
        b"{",
        b'{"a"}',
        b'{"a":}',
        b'{"a":1,}',
        b"[1,]",
        b"{'a':1}",
        b"{a:1}",
        b'{"a":01}',
        b'{"a":+1}',
        b'{"a":.5}',
        b'{"a":1.}',
        b'{"a":0x1}',
        b'{"a":"\\x41"}',
        b'{"a":"\\u12"}',
        b'{"a":tru}',
        b"{}{}",
        b"// {}",
        b"[" * 50,
    ],
)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    assert code_of(text) == "invalid_json"


@given(st.binary(max_size=60))
def test_any_bytes_are_accepted_or_refused_and_nothing_else(text: bytes) -> None:
    code_of(text)


@given(
    st.lists(
        st.sampled_from(
            [
                *[b"{", b"}", b"[", b"]", b'"', b'"a"', b":", b",", b" ", b"1", b"NaN", b"1e400", b"9" * 309],
                *[b"\\", b"\\ud800", b"\\u003a", b"\xff", b"9" * 5000],
            ]
        ),
        max_size=20,
    )
)
def test_any_tokens_are_accepted_or_refused_and_nothing_else(tokens: list[bytes]) -> None:
    text = b"".join(tokens)
    if code_of(text) is None:
        json.loads(text, parse_int=str, parse_float=str)  # what we accept, others read


LONG: dict[str, Callable[[int], bytes]] = {
    "308 digits": lambda n: b"[" + b",".join([b"1" * 308] * (40 * n)) + b"]",
    "deep groups": lambda n: b"[" + b",".join([b"[" * 120 + b"]" * 120] * (12 * n)) + b"]",
    "wide": lambda n: b"[" + b",".join([b"[]"] * (300 * n)) + b"]",
    "escapes": lambda n: b'["' + b'\\"' * (500 * n) + b'"]',
    "colons": lambda n: b'["' + b":" * (1000 * n) + b'"]',
    "keys": lambda n: b"{" + b",".join(b'"%d":0' % i for i in range(100 * n)) + b',"0":0}',
}
"""Texts of each kind, in length proportional to a number; with 1000 it is about a megabyte."""


def seconds_for(text: bytes) -> float:
    """Of this process alone, the shortest of three: other load on the machine does not count.

    Nor does the garbage collector, which looks at whatever other tests have left.
    """
    took = []
    gc.disable()
    try:
        for _ in range(3):
            began = process_time()
            code_of(text)
            took.append(process_time() - began)
    finally:
        gc.enable()
    return min(took)


@pytest.mark.parametrize("kind", LONG)
def test_no_text_takes_more_than_in_proportion(kind: str) -> None:
    """Sixteen times the text would take 256 times as long if the time grew with its square."""
    short, long = (seconds_for(LONG[kind](n)) for n in (25, 400))
    assert long < 80 * max(short, 0.0005)


# -- merge

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
json_objects = st.dictionaries(st.text(max_size=3), json_values, max_size=5)
spelling = st.fixed_dictionaries(
    {
        "separators": st.tuples(st.sampled_from([",", ", ", " ,\t"]), st.sampled_from([":", ": ", " :  "])),
        "ensure_ascii": st.booleans(),
    }
)


def same(one: Any, other: Any) -> bool:
    """Equal in value, type and order of keys."""
    return json.dumps(one) == json.dumps(other)


@given(value=json_values, style=spelling)
def test_whatever_a_program_writes_is_accepted(value: Any, style: dict[str, Any]) -> None:
    check_text(json.dumps(value, **style).encode(), DEPTH)


@given(current=json_objects, patch=json_objects, style=spelling, other=spelling)
def test_merge_is_what_dict_update_is(
    current: dict[str, Any], patch: dict[str, Any], style: dict[str, Any], other: dict[str, Any]
) -> None:
    texts = json.dumps(current, **style).encode(), json.dumps(patch, **other).encode()
    merged = merge_all(texts)
    assert merge_with_keys(*texts) == (merged, tuple(current | patch))
    assert same(json.loads(merged), current | patch)
    assert code_of(merged) is None


@pytest.mark.parametrize("number", ["-0", "1.10", "1E5", "1e-400", "0.1000", "1" * 40, "9" * 308, "-0.0"])
def test_merge_keeps_the_text_of_numbers(number: str) -> None:
    old, new = f'{{"a":{number},"b":[{number}]}}'.encode(), f'{{"c":{{"d":{number}}}}}'.encode()
    assert merge_all([old, new]) == f'{{"a":{number},"b":[{number}],"c":{{"d":{number}}}}}'.encode()


@pytest.mark.parametrize(
    ("current", "patch", "merged"),
    [
        (b"{}", b"{}", b"{}"),
        (b"{}", b'{ "a" : 1 }', b'{"a":1}'),
        (b'{"a":1}', b"{}", b'{"a":1}'),
        (b'{"a":1}', b"{ }", b'{"a":1}'),
        (b"{ }", b'{"a":1}', b'{"a":1}'),
        (b'{"a":1}', b'{"a":null}', b'{"a":null}'),  # null is a value like any
        (b'{"a":{"x":1}}', b'{"a":{"y":2}}', b'{"a":{"y":2}}'),  # one level, no deeper
        (b'{"a":1,"b":2,"c":3}', b'{"c":6,"d":7,"a":4}', b'{"a":4,"b":2,"c":6,"d":7}'),
        (b'{"a":1}', b'{"\\u0061":2}', b'{"a":2}'),
        (b'{"z":1,"a":2}', b'{"m":3}', b'{"z":1,"a":2,"m":3}'),
    ],
)
def test_merge(current: bytes, patch: bytes, merged: bytes) -> None:
    assert merge_all([current, patch]) == merge_with_keys(current, patch)[0] == merged
