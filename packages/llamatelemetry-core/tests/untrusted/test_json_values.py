from __future__ import annotations

import json
import math
import sys
import time
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llamatelemetry.errors import ModelFileError
from llamatelemetry.untrusted.json_values import parse_json, read_json, read_object

VALUES = 1000

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside, max_size=5) | st.dictionaries(st.text(), inside, max_size=5),
    max_leaves=20,
)


@given(any_json, st.booleans())
def test_json_is_what_the_standard_library_says_it_is(value, ascii_only):
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode(), most_values=VALUES) == value


def cost(value):
    """Brackets and commas of a value."""
    if not isinstance(value, list | dict):
        return 0
    inside = value.values() if isinstance(value, dict) else value
    return 1 + max(0, len(value) - 1) + sum(map(cost, inside))


@given(any_json)
def test_values_are_counted_whatever_texts_look_like(value):
    data = json.dumps(value, ensure_ascii=False).encode()
    count = 1 + cost(value)
    parse_json(data, most_values=max(count, data.count(b'"')))
    if cost(value):
        with pytest.raises(ValueError, match="limit"):
            parse_json(data, most_values=count - 1)


@given(st.text(alphabet='[]{}",:\\ 0a') | st.binary())
@example('"\\')
@example('"\\"[')
def test_whatever_is_not_json_is_a_value_error(data):
    data = data.encode() if isinstance(data, str) else data
    try:
        expected = json.loads(data.decode())
        json.dumps(expected, ensure_ascii=False).encode()  # Half a character is none of JSON's either.
    except ValueError:
        with pytest.raises(ValueError, match=r"is not|nests deeper"):
            parse_json(data, most_values=VALUES)
    else:
        assert parse_json(data, most_values=VALUES) == expected


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}'])
def test_a_number_that_json_does_not_have_is_refused(text):
    with pytest.raises(ValueError, match="is not JSON"):
        parse_json(text.encode(), most_values=VALUES)


def test_a_number_too_long_to_convert_is_refused():
    with pytest.raises(ValueError, match="is not JSON"):
        parse_json(b"9" * (sys.get_int_max_str_digits() + 1), most_values=VALUES)


def test_a_number_too_large_for_a_float_is_infinite_and_no_error():
    assert parse_json(b"1e999", most_values=VALUES) == math.inf


def test_bytes_that_are_not_utf8_are_named_by_their_place():
    with pytest.raises(ValueError, match="not UTF-8 at byte 2"):
        parse_json(b'["\xff"]', most_values=VALUES)


@pytest.mark.parametrize(
    "half", [r"\ud800", r"\uDFFF", r"\udc00\ud800", r"\ud800\\\udc00", r"\ud800\ud800\udc00", r"\\\ud800"]
)
def test_half_a_character_which_nothing_could_write_is_refused(half):
    with pytest.raises(ValueError, match="not Unicode"):
        parse_json(f'{{"{half}": 1}}'.encode(), most_values=VALUES)


@pytest.mark.parametrize("text", ["\U0001f600", r"\ud800", "\U0001f600\U0010ffff", r"\\udc00"])
def test_a_whole_character_and_what_only_looks_like_half_of_one_are_text(text):
    assert parse_json(json.dumps(text).encode(), most_values=VALUES) == text


def test_values_are_counted_before_they_are_made():
    assert parse_json(json.dumps([0] * 998).encode(), most_values=VALUES)
    with pytest.raises(ValueError, match="about 1002 values"):
        parse_json(json.dumps([0] * 1001).encode(), most_values=VALUES)


def test_brackets_and_commas_in_texts_are_no_values():
    text = '[{,\\"' * VALUES
    assert parse_json(json.dumps([text, text]).encode(), most_values=3) == [text, text]


HOSTILE = {
    "arrays in arrays": b"[" * 2**20 + b"]" * 2**20,
    "objects in objects": b'{"a":' * 2**18 + b"1" + b"}" * 2**18,
    "brackets that nothing closes": b"[" * 2**20,
    "quotes that are all escaped": b'"' + b'\\"' * 2**20,
    "backslashes": b'"' + b"\\" * 2**21,
    "quotes": b'"' * (2**20 + 1),
    "empty arrays": b"[" + b"[]," * 2**19 + b"[]]",
    "empty texts": b"[" + b'"",' * 2**19 + b'""]',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_costs_little_more_than_itself(name):
    before = time.thread_time()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"limit|nests|is not JSON"):
            parse_json(HOSTILE[name], most_values=10_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(HOSTILE[name])
    assert time.thread_time() - before < 1


def test_deep_nesting_is_refused_however_deep_python_may_recurse():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        with pytest.raises(ValueError, match="nests deeper than 32 levels"):
            parse_json(b"[" * 50_000 + b"]" * 50_000, most_values=2**20)
    finally:
        sys.setrecursionlimit(limit)


def test_a_bracket_that_nothing_closes_is_no_json():
    with pytest.raises(ValueError, match="is not JSON: a bracket is left open"):
        parse_json(b'{"a": [1]', most_values=VALUES)


def test_a_file_larger_than_allowed_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ModelFileError, match=f"has {2**40} bytes, and 100 is the most"):
        read_json(path, most_bytes=100, most_values=VALUES)


def test_what_is_wrong_with_a_file_is_said_with_its_path(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"{'a': 1}")
    with pytest.raises(ModelFileError, match="is not JSON: Expecting property name") as caught:
        read_json(path, most_bytes=100, most_values=VALUES)
    assert caught.value.path == str(path)


def test_a_configuration_needs_no_limits_to_be_told(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a": [1]}')
    assert read_json(path) == read_object(path) == {"a": [1]}
    path.write_bytes(b"[" + b"1," * 2**16 + b"1]")
    with pytest.raises(ModelFileError, match="65536 is the limit"):
        read_json(path)


@given(any_json)
def test_an_object_is_read_and_nothing_else(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value))
    if isinstance(value, dict):
        assert read_object(path) == value
    else:
        with pytest.raises(ModelFileError, match="is not a JSON object"):
            read_object(path)
