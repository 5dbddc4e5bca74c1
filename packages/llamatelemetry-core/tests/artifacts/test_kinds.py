from __future__ import annotations

from pathlib import Path

import pytest

from llamatelemetry.artifacts.kinds import guess_kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [("m.gguf", "gguf"), ("M.GGUF", "gguf"), ("d.jsonl", "dataset"), ("w.bin", None), ("README", None)],
)
def test_a_files_suffix_tells_its_kind_where_that_is_plain(tmp_path: Path, name: str, kind: str | None) -> None:
    (tmp_path / name).touch()
    assert guess_kind(tmp_path / name) == kind


def test_an_adapter_has_a_file_that_a_checkpoint_has_not(tmp_path: Path) -> None:
    assert guess_kind(tmp_path) is None
    (tmp_path / "config.json").touch()
    assert guess_kind(tmp_path) == "checkpoint"
    (tmp_path / "adapter_config.json").touch()
    assert guess_kind(tmp_path) == "adapter"
