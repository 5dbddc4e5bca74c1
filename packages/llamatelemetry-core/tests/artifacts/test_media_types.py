from __future__ import annotations

import pytest

from llamatelemetry.artifacts.media_types import UNKNOWN, media_type


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/model.gguf", "application/x-gguf"),
        ("MODEL.SAFETENSORS", "application/x-safetensors"),
        ("tokenizer.json", "application/json"),
        ("log.jsonl", "application/jsonl"),
        ("README", UNKNOWN),
        (".json", UNKNOWN),
        ("weights.bin", UNKNOWN),
    ],
)
def test_a_name_tells_what_a_file_holds(path: str, expected: str) -> None:
    assert media_type(path) == expected
