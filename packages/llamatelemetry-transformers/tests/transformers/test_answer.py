"""From tokens to deltas and an end, against a run that makes the tokens it is told to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.backends.protocol import KVReport, StreamEnd, TokenDelta
from llamatelemetry.errors import StreamInterruptedError
from llamatelemetry.transformers.answer import read_answer
from llamatelemetry.transformers.runs import Task, TokenFeed
from llamatelemetry.transformers.sampling import Sampling

EOS = 256


class Scripted:
    """A run whose tokens are known beforehand."""

    def __init__(self, tokens: Sequence[int], *, error: Exception | None = None, cached: int = 0) -> None:
        self.feed: TokenFeed = TokenFeed(lambda: True)
        self.admission_wait_ms: float | None = 1.5
        self.cached_tokens = cached
        self.steps: list[str] = []
        self.feed.started_ns = 0
        for token in tokens:
            self.feed.put(token)
        self.feed.end(error)

    def report(self) -> KVReport:
        self.steps.append("report")
        return KVReport(pages=3, page_size=16)

    def stop(self) -> None:
        self.steps.append("stop")

    def close(self) -> None:
        self.steps.append("close")


def decode(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def answer(
    run: Scripted, *, stop: Sequence[str] = (), max_tokens: int = 1000, prompt: int = 4
) -> Iterator[TokenDelta | StreamEnd]:
    task = Task(prompt=[1] * prompt, max_tokens=max_tokens, sampling=Sampling(), eos=frozenset({EOS}))
    return read_answer(run, task, decode=decode, stop=stop, name="answer-1", model="tiny")


def read(run: Scripted, **options) -> tuple[list[str], StreamEnd]:
    *deltas, end = answer(run, **options)
    assert isinstance(end, StreamEnd)
    return [delta.text for delta in deltas], end


def test_an_answer_that_ends_by_itself_has_a_delta_for_each_token_and_none_of_the_end_token():
    run = Scripted([*b"abc", EOS, *b"never"])
    texts, end = read(run)
    assert texts == ["a", "b", "c", ""]
    assert end.finish_reason == "stop"
    assert end.usage.output_tokens == 4
    assert end.usage.input_tokens == 4
    assert (end.response_id, end.response_model) == ("answer-1", "tiny")
    assert end.kv == KVReport(pages=3, page_size=16)
    assert end.raw["admission_wait_ms"] == 1.5
    assert run.steps == ["report", "stop"]


def test_an_answer_may_end_with_its_first_token():
    texts, end = read(Scripted([EOS]))
    assert texts == [""]
    assert end.finish_reason == "stop"
    assert end.usage.output_tokens == 1


def test_an_answer_of_one_token_that_was_asked_for_is_whole():
    texts, end = read(Scripted([*b"ab"]), max_tokens=1)
    assert texts == ["a"]
    assert end.finish_reason == "length"
    assert end.usage.output_tokens == 1


def test_an_end_token_at_the_last_place_is_a_stop_and_no_cut():
    assert read(Scripted([*b"a", EOS]), max_tokens=2)[1].finish_reason == "stop"


def test_a_stop_string_that_tokens_share_is_left_out_and_ends_the_answer():
    run = Scripted([*b"one. STOP. two"])
    texts, end = read(run, stop=["STOP"])
    assert "".join(texts) == "one. "
    assert end.finish_reason == "stop"
    assert end.usage.output_tokens == len(b"one. STOP")
    assert run.steps == ["report", "stop"]


def test_what_looked_like_a_stop_string_and_was_none_is_told_in_the_end():
    for tokens, limit in (([*b"say ST", EOS], 1000), ([*b"say ST"], 6)):
        texts, _ = read(Scripted(tokens), stop=["STOP"], max_tokens=limit)
        assert "".join(texts) == "say ST"


def test_a_stop_string_that_is_complete_with_the_last_token_counts_as_one():
    texts, end = read(Scripted([*b"ab"]), stop=["b"], max_tokens=2)
    assert "".join(texts) == "a"
    assert end.finish_reason == "stop"


def test_a_character_that_is_never_completed_is_written_as_the_decoder_writes_it():
    texts, _ = read(Scripted([*b"a", *"é".encode()[:1], EOS]))
    assert "".join(texts) == "a\N{REPLACEMENT CHARACTER}"


def test_tokens_from_the_cache_are_told_and_are_not_computed_ones():
    end = read(Scripted([EOS], cached=3))[1]
    assert end.usage.cached_tokens == 3
    assert end.timings.prefill_tokens == 1


def test_timings_are_those_of_the_feed():
    run = Scripted([*b"abc"])
    run.feed.started_ns, run.feed.first_ns, run.feed.last_ns = 1_000_000, 3_000_000, 8_000_000
    timings = read(run, max_tokens=3)[1].timings
    assert timings.prefill_ms == pytest.approx(2.0)
    assert timings.decode_ms == pytest.approx(5.0)


def test_timings_that_nobody_took_are_left_open():
    run = Scripted([*b"a"])
    run.feed.started_ns = None
    timings = read(run, max_tokens=1)[1].timings
    assert timings.prefill_ms is timings.decode_ms is None


def test_a_run_that_fails_raises_after_what_it_made():
    items = answer(Scripted([*b"a"], error=StreamInterruptedError("gone")))
    assert next(items) == TokenDelta("a")
    with pytest.raises(StreamInterruptedError, match="gone"):
        next(items)


def test_a_run_that_was_stopped_from_outside_has_no_end():
    assert list(answer(Scripted([*b"ab"]))) == [TokenDelta("a"), TokenDelta("b")]


@given(st.text(st.characters(codec="utf-8"), max_size=30), st.text("ab", min_size=1, max_size=3))
def test_the_text_is_that_of_the_tokens_up_to_the_first_stop_string(text, stop):
    tokens = [*text.encode(), EOS]
    texts, end = read(Scripted(tokens), stop=[stop])
    at = text.find(stop)
    assert "".join(texts) == (text if at < 0 else text[:at])
    assert end.usage.output_tokens == len(texts) == (len(tokens) if at < 0 else len(text[: at + len(stop)].encode()))
