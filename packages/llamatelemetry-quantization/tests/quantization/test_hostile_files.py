"""Files that anybody may hand over are read or refused with a typed error; nothing else comes of them."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.errors import InvalidValueError, ModelFileError
from llamatelemetry.quantization import read_importance
from llamatelemetry.quantization.dynamic.trial_cache import TrialCache
from llamatelemetry.quantization.variants import read_report, read_variant_table, variant_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=8), of, max_size=3),
    max_leaves=8,
)
HUGE = st.integers(10**300, 10**400)
NUMBER = st.none() | st.integers() | st.floats() | HUGE
FIGURE = st.fixed_dictionaries({"value": NUMBER, "low": NUMBER, "high": NUMBER})
VARIANT = st.fixed_dictionaries(
    {"name": st.text(), "size_bytes": st.integers() | HUGE}, optional={"perplexity": FIGURE, "agreement": FIGURE | JSON}
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "file"


@given(data=st.data())
def test_an_importance_matrix_with_any_pieces_changed(place, tiny_importance, data):
    content = bytearray(tiny_importance.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(content), 3000) - 1))
        content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    place.write_bytes(content)
    with suppress(ModelFileError):
        read_importance(place)


@given(st.binary(max_size=200))
def test_an_importance_matrix_of_any_bytes(place, content):
    place.write_bytes(content)
    with suppress(ModelFileError):
        read_importance(place)


@given(variants=st.lists(VARIANT, max_size=3) | JSON)
def test_a_comparison_of_any_json(place, variants):
    place.write_text(json.dumps({"variants": variants}))
    try:
        table = read_variant_table(place)
    except InvalidValueError:
        return
    assert table.markdown().startswith("| model |")


@given(content=st.binary(max_size=100) | JSON.map(lambda it: json.dumps(it).encode()))
def test_a_report_of_any_bytes(place, content):
    place.write_bytes(content)
    with suppress(InvalidValueError):
        variant_of("q4", 1, quality=read_report(place), speed=None)


@given(measured=JSON)
def test_a_record_of_trials_of_any_json(place, measured):
    place.write_text(json.dumps({"format": "llamatelemetry.divergences", "measured": measured}))
    with suppress(ModelFileError):
        assert TrialCache(place).get({"model": "a"}) is None


@pytest.mark.parametrize("read", [read_report, read_variant_table, TrialCache], ids=lambda it: it.__name__)
def test_what_is_nested_without_end_is_refused(tmp_path, read):
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises((InvalidValueError, ModelFileError)):
        read(tmp_path / "deep.json")
