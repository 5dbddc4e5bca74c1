from __future__ import annotations

from typing import Literal
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.readers import (
    base_url,
    flag,
    headers,
    names,
    number,
    one_of,
    some_of,
    url,
    whole,
    without_credentials,
)

Colour = Literal["red", "green", "blue"]
tokens = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1)


def test_a_choice_is_read_as_it_is_written() -> None:
    assert one_of(Colour)("red") == "red"
    with pytest.raises(ValueError, match="choose one of red, green, blue"):
        one_of(Colour)("Red")


def test_several_choices_keep_their_order_and_lose_their_repeats() -> None:
    assert some_of(Colour)(" blue,red, blue,") == ("blue", "red")
    with pytest.raises(ValueError, match="at least one of red, green, blue"):
        some_of(Colour)(" , ")
    with pytest.raises(ValueError, match="choose one of"):
        some_of(Colour)("red,yellow")


@given(st.lists(tokens))
def test_names_are_what_stands_between_commas(listed: list[str]) -> None:
    assert names(" , ".join(listed)) == tuple(dict.fromkeys(listed))


@pytest.mark.parametrize("text", ["nan", "-1", "11", "ten", "inf", ""])
def test_a_number_out_of_bounds_or_none_at_all_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give a number"):
        number(0, 10)(text)


def test_a_number_is_scaled_after_it_is_checked() -> None:
    assert number(0, 10, scale=1e-3)("5") == 0.005


@pytest.mark.parametrize("text", ["0", "6", "1.5", "-2", "", "½"])
def test_a_whole_number_is_one(text: str) -> None:
    with pytest.raises(ValueError, match="whole number from 1 to 5"):
        whole(1, 5)(text)


@pytest.mark.parametrize(("text", "value"), [("true", True), (" TRUE ", True), ("False", False)])
def test_a_flag_is_true_or_false_in_any_case(text: str, *, value: bool) -> None:
    assert flag(text) is value
    with pytest.raises(ValueError, match="true or false"):
        flag("1")


def test_a_url_that_paths_are_put_behind_loses_its_last_slash_and_another_one_keeps_it() -> None:
    assert base_url("https://there:4318/") == "https://there:4318"
    assert url("https://there:4318/v1/traces/") == "https://there:4318/v1/traces/"


@pytest.mark.parametrize(
    "text",
    [
        *("there:4318", "http://", "http:///v1/traces", "http://there:port", "http://there:99999", "http://[::1"),
        *("http://exa..mple", f"http://{'a' * 64}.example"),
    ],
)
def test_what_nothing_can_be_sent_to_is_no_url(text: str) -> None:
    for read in (url, base_url):
        with pytest.raises(ValueError, match=r"^give a URL such as"):
            read(text)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://ada:hunter2@there:4318/v1/traces", "https://there:4318/v1/traces"),
        ("https://ada:hunt@er2@there", "https://there"),
        ("https://there/a@b", "https://there/a@b"),
        ("http://[::1]:4318", "http://[::1]:4318"),
    ],
)
def test_a_url_is_shown_without_its_password(address: str, shown: str) -> None:
    assert without_credentials(address) == shown


@given(st.dictionaries(tokens, st.text()))
def test_headers_come_out_as_they_were_put_in(wanted: dict[str, str]) -> None:
    text = ",".join(f"{key.upper()}={quote(value, safe='')}" for key, value in wanted.items())
    assert headers(text) == wanted
