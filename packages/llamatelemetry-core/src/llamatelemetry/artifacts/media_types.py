"""What a file holds, told from its name.

The table is fixed, because Python's own reads what the machine has installed, and a manifest must
not depend on that. Formats of weights have no registered type; theirs begin with ``x-``.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

UNKNOWN: Final = "application/octet-stream"
_BY_SUFFIX: Final = {
    ".arrow": "application/vnd.apache.arrow.file",
    ".csv": "text/csv",
    ".gguf": "application/x-gguf",
    ".html": "text/html",
    ".jinja": "text/plain",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".safetensors": "application/x-safetensors",
    ".svg": "image/svg+xml",
    ".toml": "application/toml",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}


def media_type(path: str) -> str:
    """The media type that a file's name stands for; :data:`UNKNOWN` for any other."""
    return _BY_SUFFIX.get(PurePosixPath(path).suffix.lower(), UNKNOWN)
