"""What an artifact is, told from what is in it, where that is plain."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_BY_SUFFIX: Final = {
    ".csv": "dataset",
    ".gguf": "gguf",
    ".jsonl": "dataset",
    ".parquet": "dataset",
    ".txt": "dataset",
}
_BY_CONTENT: Final = (("adapter_config.json", "adapter"), ("config.json", "checkpoint"))


def guess_kind(path: Path) -> str | None:
    """The kind of an artifact: by the suffix of a file, or by the file in a folder that only such a folder has."""
    if path.is_dir():
        return next((kind for name, kind in _BY_CONTENT if (path / name).is_file()), None)
    return _BY_SUFFIX.get(path.suffix.lower())
