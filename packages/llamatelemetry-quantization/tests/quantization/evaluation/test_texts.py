from __future__ import annotations

import pytest

from llamatelemetry.errors import InvalidValueError, ModelFileError
from llamatelemetry.quantization.evaluation.texts import CALIBRATION_TEXT, QUALITY_TEXT, Text, read_text, windows_of

TEXT = Text(name="numbers.txt", content="", sha256="")


def test_the_second_half_of_each_window_is_scored_and_nothing_twice():
    windows = windows_of(TEXT, list(range(100, 127)), context=8, begins_with=None)

    assert [window.tokens for window in windows] == [tuple(range(at, at + 7)) for at in (100, 108, 116)]
    assert [window.targets for window in windows] == [(105, 106, 107), (113, 114, 115), (121, 122, 123)]
    # The logits of position 4 are of the token after it.
    assert {window.first for window in windows} == {4}


def test_what_texts_begin_with_takes_the_place_of_the_first_token():
    (window,) = windows_of(TEXT, list(range(16)), context=8, begins_with=99, most=1)

    assert window.tokens == (99, 1, 2, 3, 4, 5, 6)


def test_a_text_of_less_than_a_window_is_refused():
    with pytest.raises(InvalidValueError, match="it has 7 tokens and a window 8"):
        windows_of(TEXT, list(range(7)), context=8, begins_with=None)
    with pytest.raises(InvalidValueError, match="at least 1"):
        windows_of(TEXT, list(range(8)), context=8, begins_with=None, most=0)


def test_the_texts_that_ship_share_no_line():
    quality, calibration = (
        set(read_text(None, name).content.splitlines()) for name in (QUALITY_TEXT, CALIBRATION_TEXT)
    )

    assert {line for line in quality & calibration if len(line) > 30} == set()
    assert sum(map(len, quality)) > 20_000


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "text.txt"
    with pytest.raises(ModelFileError, match="No such file"):
        read_text(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelFileError, match="UTF-8"):
        read_text(path)
