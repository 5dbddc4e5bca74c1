"""What unsloth is told before it is imported, so that it leaves the machine as it is.

Left to itself it installs system packages with apt-get, asking for root, when it exports a model; it tells a server
which cloud it runs in each time it loads one; and it writes generated code into the current folder, from which it
imports it again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from llamatelemetry.errors import NotSupportedError

__all__ = ["FORCED", "refuse_its_export", "tame_unsloth"]

FORCED: Final[Mapping[str, str]] = {"UNSLOTH_AUTO_INSTALL": "0", "UNSLOTH_DISABLE_STATISTICS": "1"}
"""Variables that are set whatever they were; unsloth reads the first each time it would install something."""
_GENERATED: Final = "UNSLOTH_COMPILE_LOCATION"
_EXPORTS: Final = ("save_pretrained_gguf", "push_to_hub_gguf")


def tame_unsloth() -> None:
    """Sets its variables. A place that the user chose for what it generates stays."""
    os.environ.update(FORCED)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault(_GENERATED, str(caches / "llamatelemetry" / "unsloth"))


def refuse_its_export(model: Any) -> None:
    """Takes away a model's own export to GGUF, which fetches llama.cpp from the network and compiles it."""
    for name in _EXPORTS:
        if hasattr(model, name):
            setattr(model, name, _refuse)


def _refuse(*_arguments: Any, **_options: Any) -> NoReturn:
    raise NotSupportedError(
        "unsloth's own export fetches llama.cpp from the network, compiles it and installs system packages. "
        "Merge the adapter with the stage merge_lora and export with the stage export_gguf, or with "
        "`llamatelemetry export-gguf FOLDER OUT`, which need neither"
    )
