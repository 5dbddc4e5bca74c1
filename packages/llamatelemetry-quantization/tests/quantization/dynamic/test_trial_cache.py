from __future__ import annotations

import pytest

from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization.dynamic.trial_cache import TrialCache


def test_what_was_measured_is_known_to_the_next_run_whatever_the_order_of_facts(tmp_path):
    path = tmp_path / "trials.json"
    TrialCache(path).put({"model": "a", "types": {"x": "Q4_K", "y": "Q6_K"}}, 0.25)

    cache = TrialCache(path)
    assert cache.get({"types": {"y": "Q6_K", "x": "Q4_K"}, "model": "a"}) == 0.25
    assert cache.get({"types": {"y": "Q6_K", "x": "Q4_K"}, "model": "b"}) is None
    assert [each.name for each in tmp_path.iterdir()] == ["trials.json"]


NO_NUMBERS = '{"format": "llamatelemetry.divergences", "measured": {"a": "b"}}'


@pytest.mark.parametrize("content", ["", "[]", "{}", NO_NUMBERS])
def test_another_file_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)

    with pytest.raises(ModelFileError, match="no record of measurements"):
        TrialCache(path)
    assert path.read_text() == content


def test_a_folder_that_is_not_there_is_a_typed_error(tmp_path):
    with pytest.raises(ModelFileError, match="cannot be written"):
        TrialCache(tmp_path / "none" / "trials.json").put({}, 1.0)
