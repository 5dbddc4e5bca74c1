from __future__ import annotations

import hashlib
import json
import math
import struct
from typing import Any

import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamatelemetry.artifacts.canonical import MAX_DEPTH, canonical_json, sha256_of_json, whole_number
from llamatelemetry.errors import InvalidManifestError

plain_text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53 - 1), 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | plain_text
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_text, inner, max_size=4), max_leaves=20
)


@given(values)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_value_is_written_as_another_implementation_writes_it(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@given(values)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_was_written_reads_back_and_is_written_the_same_again(value: Any) -> None:
    written = canonical_json(value)
    assert canonical_json(json.loads(written, parse_int=whole_number)) == written


# Appendix B of RFC 8785: bits of a double, and how it is written.
@pytest.mark.parametrize(
    ("bits", "text"),
    [
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555557", "333333333.33333343"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_numbers_are_written_as_the_standard_lists_them(bits: str, text: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical_json(number).decode() == text


def test_names_are_ordered_by_their_utf_16_code_units() -> None:
    # U+1F600 is written with the surrogates D83D DE00, which stand before U+FB33.
    assert canonical_json({"\ufb33": 1, "\U0001f600": 2, "1": 3, "\r": 4}).decode() == (
        '{"\\r":4,"1":3,"\U0001f600":2,"\ufb33":1}'
    )


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 2**53, -(2**53), b"x", {1: 2}, "\ud800", {"\ud800": 1}, object()]
)
def test_what_has_no_form_is_refused_and_its_place_named(value: Any) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        canonical_json({"a": [0, value]}, field="parameters")
    assert caught.value.field == "parameters.a[1]"


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidManifestError, match=f"nest at most {MAX_DEPTH}"):
        canonical_json(value)


def test_the_digest_is_that_of_the_bytes() -> None:
    assert sha256_of_json({"b": 1, "a": []}) == hashlib.sha256(b'{"a":[],"b":1}').hexdigest()


def test_digits_past_exact_integers_are_those_of_a_float() -> None:
    assert whole_number("9007199254740991") == 2**53 - 1
    assert isinstance(whole_number("9007199254740992"), float)
    with pytest.raises(ValueError, match="a number of 5000 digits"):
        whole_number("1" * 5000)
