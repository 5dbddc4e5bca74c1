"""Which llama.cpp will run the model: a server somewhere, a binary here, or the embedded one.

Nothing is started and nothing heavy imported to find out, so ``doctor`` can ask as well.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, util
from typing import Final, Literal

from llamatelemetry.errors import ConfigurationError, MissingDependencyError

RuntimeKind = Literal["url", "binary", "embedded"]
"""A running server, a ``llama-server`` executable, or xllamacpp in a child process."""

BINARY_VARIABLE: Final = "LLAMA_SERVER_BIN"
"""Environment variable that names the ``llama-server`` executable to use."""

INSTALL_COMMAND: Final = "pip install 'llamatelemetry-llamacpp[embedded]'"
"""What to run on a machine that has no runtime."""

_VERSION_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The llama.cpp that was found.

    Attributes:
        kind: What it is.
        location: Its URL, the path of the executable, or the folder of the package.
        origin: What led to it, for people: ``server_url``, ``LLAMA_SERVER_BIN``, ``PATH``, ``xllamacpp``.
        version: Version of the package; None for the others, which only know it when asked.
    """

    kind: RuntimeKind
    location: str
    origin: str
    version: str | None = None


def resolve_runtime(server_url: str | None = None, environ: Mapping[str, str] | None = None) -> Runtime:
    """Finds the runtime: ``server_url``, LLAMA_SERVER_BIN, ``llama-server`` on PATH, xllamacpp.

    Args:
        server_url: Base URL of a server that is already running.
        environ: Environment to read; the process's own when None.

    Raises:
        ConfigurationError: LLAMA_SERVER_BIN is set and is not an executable file.
        MissingDependencyError: There is none; carries the command that installs one.
    """
    environ = os.environ if environ is None else environ
    if server_url:
        return Runtime(kind="url", location=server_url.rstrip("/"), origin="server_url")
    named = environ.get(BINARY_VARIABLE, "").strip()
    if named:
        path = shutil.which(os.path.expanduser(named), path="")  # noqa: PTH111 - which() takes and returns text
        if path is None:
            raise ConfigurationError(BINARY_VARIABLE, named, "give the path of a llama-server executable, or unset it")
        return Runtime(kind="binary", location=path, origin=BINARY_VARIABLE)
    path = shutil.which("llama-server", path=environ.get("PATH", ""))
    if path is not None:
        return Runtime(kind="binary", location=path, origin="PATH")
    return embedded_runtime()


def embedded_runtime() -> Runtime:
    """The embedded runtime, if its package is installed; the package is not imported.

    Raises:
        MissingDependencyError: It is not; carries the command that installs it.
    """
    spec = util.find_spec("xllamacpp")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError("running a model", "a llama.cpp runtime", INSTALL_COMMAND)
    return Runtime(
        kind="embedded",
        location=spec.submodule_search_locations[0],
        origin="xllamacpp",
        version=metadata.version("xllamacpp"),
    )


def binary_version(path: str) -> str | None:
    """Asks a ``llama-server`` executable for its version, such as ``6789 (1a2b3c4)``; None if it does not say."""
    try:
        answer = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(rb"^version: (.+)$", answer.stdout, re.MULTILINE)
    return found[1].decode("utf-8", "replace").strip() if found else None
