from __future__ import annotations

import itertools
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.errors import BackendProtocolError, StreamInterruptedError
from llamatelemetry.llama.sse import SseParser

texts = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=20)
line_ends = st.sampled_from([b"\n", b"\r\n"])


@st.composite
def streams(draw) -> tuple[bytes, list[str]]:
    """An event stream and the data of its events."""
    stream, events = b"", []
    for lines in draw(st.lists(st.lists(texts, max_size=3), max_size=5)):
        end = draw(line_ends)
        for line in lines:
            stream += draw(st.sampled_from([b"", b": ping" + end, b"event: message" + end, b"retry" + end]))
            stream += draw(st.sampled_from([b"data: ", b"data:"] if line[:1] != " " else [b"data: "]))
            stream += line.encode() + end
        stream += end
        if lines:
            events.append("\n".join(lines))
    return stream, events


@given(streams(), st.lists(st.integers(0, 400)))
def test_events_do_not_depend_on_where_the_stream_is_cut(stream, cuts):
    data, events = stream
    parser = SseParser()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    found = [event for start, end in itertools.pairwise(places) for event in parser.feed(data[start:end])]
    parser.end()
    assert found == events


@given(streams())
def test_events_arrive_with_their_last_byte(stream):
    data, events = stream
    parser = SseParser()
    found = [event for index in range(len(data)) for event in parser.feed(data[index : index + 1])]
    assert found == events


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_any_bytes_end_in_events_or_in_a_typed_error(pieces):
    parser = SseParser(max_event_bytes=100)
    try:
        for piece in pieces:
            assert all(isinstance(event, str) for event in parser.feed(piece))
        parser.end()
    except (BackendProtocolError, StreamInterruptedError):
        pass


@pytest.mark.parametrize("rest", [b"data: 1", b"data: 1\n", b"da", b": ping", b"\xc3"])
def test_a_stream_that_ends_inside_an_event_says_so(rest):
    parser = SseParser()
    assert list(parser.feed(b"data: 0\n\n" + rest)) == ["0"]
    with pytest.raises(StreamInterruptedError, match="middle of an event"):
        parser.end()


@pytest.mark.parametrize(
    "line", [b"<html>\n", b'{"error": 1}\n', b"HTTP/1.1 200 OK\n", b"error: {}\n", b"dataa: 1\n", b" data: 1\n"]
)
def test_a_line_of_something_else_is_an_error_that_shows_it(line):
    with pytest.raises(BackendProtocolError) as caught:
        list(SseParser().feed(line))
    assert line.strip().decode() in str(caught.value)


def test_data_that_is_not_utf8_is_an_error():
    with pytest.raises(BackendProtocolError, match="not UTF-8"):
        list(SseParser().feed(b"data: \xff\xfe\n\n"))


def test_the_events_before_an_error_are_delivered():
    events = SseParser().feed(b"data: 0\n\ndata: 1\n\n<html>\n")
    assert [next(events), next(events)] == ["0", "1"]
    with pytest.raises(BackendProtocolError):
        next(events)


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 50, b"data: " + b"x" * 50 + b"\n", b"data:\n", b": " + b"x" * 50])
def test_an_event_without_end_is_given_up_at_the_limit(piece):
    parser = SseParser(max_event_bytes=1000)
    with pytest.raises(BackendProtocolError, match="more than 1000 bytes"):
        deque(itertools.chain.from_iterable(map(parser.feed, [piece] * 1000)), maxlen=0)


def test_pings_and_finished_events_do_not_count_towards_the_limit():
    parser = SseParser(max_event_bytes=100)
    for _ in range(100):
        assert list(parser.feed(b": ping\n\ndata: 0123456789\n\n")) == ["0123456789"]
    parser.end()
