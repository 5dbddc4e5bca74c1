"""Examples are read line by line, and a line that is none is named."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.errors import InvalidValueError, ModelFileError
from llamatelemetry.unsloth.dataset import Example, read_examples

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def test_the_three_forms_are_read_and_empty_lines_passed_over(dataset):
    path = dataset([{"text": "one"}, "", {"messages": TALK}, {"prompt": "2+2=", "completion": "4"}])

    assert list(read_examples(path)) == [
        Example(line=1, text="one"),
        Example(line=3, messages=tuple(TALK)),
        Example(line=4, text="2+2=", completion="4"),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("not JSON", "one JSON object a line"),
        ("[" * 100_000, "one JSON object a line"),
        ('{"text": ""}', "messages"),
        ('{"text": 3}', "messages"),
        ('{"prompt": "a"}', "completion"),
        ('{"messages": []}', "messages"),
        ('["text"]', "messages"),
        ('{"messages": [{"role": "user"}]}', r"messages\[0\].*both text"),
    ],
)
def test_a_line_that_is_no_example_is_named(dataset, line, said):
    path = dataset([{"text": "one"}, line])

    with pytest.raises(InvalidValueError, match=f"line 2.*{said}"):
        list(read_examples(path))


def test_a_line_without_end_is_not_read_into_memory(tmp_path):
    path = tmp_path / "data.jsonl"
    with path.open("wb") as file:
        file.truncate(2**36)  # A hole of 64 GiB.

    with pytest.raises(InvalidValueError, match="at most"):
        list(read_examples(path))


def test_text_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(b'{"text": "\xff"}\n')

    with pytest.raises(InvalidValueError, match="line 1"):
        list(read_examples(tmp_path / "data.jsonl"))


def test_a_dataset_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"none\.jsonl: does not exist"):
        list(read_examples(tmp_path / "none.jsonl"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed") / "data.jsonl"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda of: st.lists(of, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), of, max_size=3),
    max_leaves=8,
)
LINE = st.dictionaries(st.sampled_from(["text", "messages", "prompt", "completion"]), JSON, max_size=3)


@given(content=st.binary(max_size=100) | LINE.map(lambda it: json.dumps(it).encode()))
def test_any_bytes_are_examples_or_refused(place, content):
    place.write_bytes(content)
    with suppress(InvalidValueError, ModelFileError):
        for example in read_examples(place):
            assert example.text or example.messages or example.completion
