"""The comparison itself: it must see every difference that counts."""

import pytest

from tests.docs.markdown import anchors, between, fences, links, section, table
from tests.docs.matching import Names


def test_white_space_between_tokens_does_not_count() -> None:
    Names().compare('{"a": [1, 2], "b": "x  y"}', '{"a":[1,2],"b":"x  y"}')


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ('{"a": 1}', '{"a":2}'),
        ('{"a": 1.10}', '{"a":1.1}'),
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}'),
        ('{"a": "x y"}', '{"a":"xy"}'),
        ('{"a": "<time>"}', '{"a":"yesterday"}'),
        ('{"a": <seconds>}', '{"a":-1}'),
        ('{"a": "<one>", "b": "<one>"}', '{"a":"x","b":"y"}'),
        ('{"a": 1}', '{"a":1,"more":2}'),
    ],
)
def test_every_other_difference_is_seen(expected: str, actual: str) -> None:
    with pytest.raises(AssertionError):
        Names().compare(expected, actual)


def test_a_name_is_carried_over() -> None:
    names = Names()
    names.compare('{"id": "<session>"}', '{"id":"s-1"}')
    assert names.fill('{"use": "<session>"}') == '{"use": "s-1"}'
    with pytest.raises(AssertionError):
        names.compare('{"id": "<session>"}', '{"id":"s-2"}')
    with pytest.raises(KeyError):
        names.fill("<other>")


DOCUMENT = """# One

[there](other.md#here) `[not](this.md)`

## Two words, `code`

```sh
# no heading
[no](link)
```

<!-- x: begin -->
inside
<!-- x: end -->

| a | b |
|---|---|
| 1 | `x \\| y` |
| 2 | z |

## Three
"""


def test_markdown() -> None:
    assert anchors(DOCUMENT) == {"one", "two-words-code", "three"}
    assert links(DOCUMENT) == ["other.md#here"]
    assert between(DOCUMENT, "x") == "inside\n"
    assert table(section(DOCUMENT, "Two words, `code`")) == [["1", "`x | y`"], ["2", "z"]]
    (fence,) = fences(DOCUMENT, "sh")
    assert (fence.heading, fence.line, fence.body) == ("Two words, `code`", 7, "# no heading\n[no](link)\n")
