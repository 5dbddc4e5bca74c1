from __future__ import annotations

from collections.abc import Callable

from hypothesis import example, given
from hypothesis import strategies as st

from llamatelemetry.transformers.detokenize import Detokenizer, StopStrings

Decode = Callable[[list[int]], str]


def decode_bytes(tokens: list[int]) -> str:
    """A token is a byte, as in vocabularies that have a token for each."""
    return bytes(tokens).decode(errors="replace")


def decode_words(tokens: list[int]) -> str:
    """A token is a word, and the space before the first one of a text is left out; 0 is special and has no text."""
    return "".join(f" w{token}" for token in tokens if token).removeprefix(" ")


def pieces_of(tokens: list[int], decode: Decode = decode_bytes) -> list[str]:
    detokenizer = Detokenizer(decode)
    return [*(detokenizer.push(token) for token in tokens), detokenizer.flush()]


def test_a_character_comes_with_its_last_token_and_no_broken_one_before_it():
    assert pieces_of([*"aé🙂".encode()]) == ["a", "", "é", "", "", "", "🙂", ""]


def test_a_character_that_is_never_finished_is_told_in_the_end():
    assert pieces_of([*"a🙂".encode()][:-1]) == ["a", "", "", "", "\N{REPLACEMENT CHARACTER}"]


def test_bytes_that_are_no_character_hold_nothing_up_for_long():
    pieces = pieces_of([0xFF] * 20 + [*b"a"])
    assert "".join(pieces) == "\N{REPLACEMENT CHARACTER}" * 20 + "a"
    assert pieces[10]


def test_a_tokenizer_that_swallows_the_first_space_does_not_swallow_every_space():
    assert pieces_of([1, 2, 3], decode_words) == ["w1", " w2", " w3", ""]


def test_a_word_behind_a_token_without_text_is_not_taken_for_the_first():
    assert pieces_of([0, 1, 0, 0, 2, 3], decode_words) == ["", "w1", "", "", " w2", " w3", ""]


def test_only_the_latest_tokens_are_decoded():
    longest = 0

    def decode(tokens: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return decode_words(tokens)

    assert "".join(pieces_of(list(range(500)), decode)) == decode_words(list(range(500)))
    assert longest <= 3


@given(st.lists(st.integers(0, 255), max_size=60) | st.text(max_size=30).map(lambda text: [*text.encode()]))
@example([0xF0, 0x9F, 0x41, 0x99, 0x82])
@example([0xC3, 0xF0, 0x9F, 0x99, 0x82])
def test_the_pieces_together_are_the_whole(tokens):
    assert "".join(pieces_of(tokens)) == decode_bytes(tokens)


@given(st.lists(st.integers(0, 9), max_size=30))
def test_the_pieces_together_are_the_whole_where_tokens_depend_on_their_place(tokens):
    assert "".join(pieces_of(tokens, decode_words)) == decode_words(tokens)


def passed(stops: list[str], *pieces: str) -> tuple[list[str], bool]:
    filter_ = StopStrings(stops)
    out = [filter_.push(piece) for piece in pieces]
    return [*out, filter_.flush()], filter_.stopped


def test_a_stop_string_across_pieces_is_found_and_nothing_of_it_gets_out():
    assert passed(["STOP"], "one S", "T", "OP two", "three") == (["one ", "", "", "", ""], True)


def test_what_only_looked_like_a_stop_string_gets_out_as_soon_as_that_is_clear():
    assert passed(["STOP"], "a ST", "ART", " ST") == (["a ", "START", " ", "ST"], False)


def test_a_stop_string_that_overlaps_itself_is_found():
    assert passed(["aab"], "aa", "ab", "x") == (["", "a", "", ""], True)


def test_without_stop_strings_nothing_is_held_back():
    assert passed([], "S", "T") == (["S", "T", ""], False)
    assert passed([""], "S", "T") == (["S", "T", ""], False)


def test_the_one_that_is_complete_first_counts_and_the_longer_of_two():
    assert passed(["bcd", "bc"], "abcd") == (["a", ""], True)
    assert passed(["c", "abc"], "xabc") == (["x", ""], True)


def first_end(text: str, stops: list[str]) -> str:
    """What is left of a text, found letter by letter."""
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)]
    return text


@given(
    st.lists(st.text("ab", max_size=4), max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_however_the_text_is_cut_the_answer_ends_at_the_same_letter(pieces, stops):
    out, stopped = passed(stops, *pieces)
    whole = "".join(pieces)
    assert "".join(out) == first_end(whole, stops)
    assert stopped == any(stop in whole for stop in stops)
