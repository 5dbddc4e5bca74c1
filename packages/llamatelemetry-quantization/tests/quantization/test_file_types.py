from __future__ import annotations

import gguf
import pytest

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization import FILE_TYPES
from llamatelemetry.quantization.file_types import file_type


def test_numbers_are_those_of_the_gguf_package():
    theirs = {kind.name.removeprefix("MOSTLY_").removeprefix("ALL_"): kind.value for kind in gguf.LlamaFileType}

    shared = set(theirs) & set(FILE_TYPES)
    assert len(shared) > 30
    assert {name: FILE_TYPES[name].number for name in shared} == {name: theirs[name] for name in shared}


def test_no_number_is_there_twice():
    assert len({kind.number for kind in FILE_TYPES.values()}) == len(FILE_TYPES)


@pytest.mark.parametrize(
    ("given", "name"), [("q4_k_m", "Q4_K_M"), ("Q4_K", "Q4_K_M"), ("q3_k", "Q3_K_M"), ("f16", "F16")]
)
def test_names_are_taken_in_any_case_and_short(given, name):
    assert file_type(given).name == name


def test_what_is_no_type_is_told_what_is():
    with pytest.raises(InvalidValueError, match=r"^file_type='Q4_Z' is not valid: give one of F32, F16, .*Q4_K_M"):
        file_type("Q4_Z")
