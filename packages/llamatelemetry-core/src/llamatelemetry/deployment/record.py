"""What is known of a deployment, as a value and as the JSON that it is kept in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_type_hints

from llamatelemetry.deployment.processes import ProcessRef
from llamatelemetry.errors import DeploymentRecordError, InvalidValueError
from llamatelemetry.pipeline.parameters import fits

DEFAULT_NAME: Final = "default"
"""Name of a deployment that was given none."""

Standing = Literal["signed", "verified", "unverified"]
"""``signed``: the artifact and its manifest are what a key's owner signed. ``verified``: the artifact is what its
manifest says. ``unverified``: no manifest describes it."""

_NAME: Final = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MAX_PORT: Final = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How a model is served.

    Attributes:
        context_length: Tokens that one slot holds; 4096, or what the model was trained on if less, when None.
        slots: Requests that run at once.
        threads: CPU threads to compute with; chosen by the backend when None.
        gpu_layers: Layers on GPUs, the output counted as one more: ``all``, ``auto`` for what fits, or a number.
        backend: Name of the registered backend that starts the server.
        startup_timeout_s: Seconds that it may take to become ready.

    Raises:
        InvalidValueError: A value is out of range.
    """

    context_length: int | None = None
    slots: int = 4
    threads: int | None = None
    gpu_layers: int | Literal["all", "auto"] = "all"
    backend: str = "llamacpp"
    startup_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        for name in ("context_length", "slots", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidValueError(name, value, "give a whole number of at least 1")
        if isinstance(self.gpu_layers, str) and self.gpu_layers not in {"all", "auto"}:
            raise InvalidValueError("gpu_layers", self.gpu_layers, "give all, auto or a number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A model that was put behind a server. Whether it still serves, :func:`~.standing.status` says.

    Attributes:
        name: What people call it.
        id: This one of those that have had the name; ids sort by time.
        artifact: The model file.
        sha256: SHA-256 of the model file.
        standing: How far the artifact was proved.
        manifest_digest: Digest of its manifest; empty where it has none.
        run_id: The pipeline run that made it; empty where that is not known, as are the two that follow.
        trace_id: The trace of that run, 32 hexadecimal digits.
        span_id: The span in it, 16 digits.
        public_key: Key that its signatures were verified with; None where they were not.
        model: Name that the server gives the model.
        url: Base URL of the server.
        port: Its port on 127.0.0.1.
        options: How it is served.
        needs: Bytes that the plan puts on the ``host`` and on each GPU, by UUID or number.
        supervisor: The process that the server belongs to.
        server: The server; None where its backend does not tell.
        log: What the server logs.
        started_ns: When it began to serve, in nanoseconds since the Unix epoch.
        deploy_trace_id: Trace of its own deployment; empty if none was sampled.
    """

    name: str
    id: str
    artifact: Path
    sha256: str
    standing: Standing
    manifest_digest: str = ""
    run_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    public_key: Path | None = None
    model: str = ""
    url: str
    port: int
    options: ServeOptions = field(default_factory=ServeOptions)
    needs: Mapping[str, int] = field(default_factory=dict)
    supervisor: ProcessRef
    server: ProcessRef | None = None
    log: Path
    started_ns: int
    deploy_trace_id: str = ""

    def to_data(self) -> dict[str, Any]:
        """The record as JSON has it."""
        data = asdict(self)
        return data | {name: None if data[name] is None else str(data[name]) for name in _PATHS}


_PATHS: Final = ("artifact", "public_key", "log")


def deployment_of(data: Any, path: Path) -> Deployment:
    """What :meth:`Deployment.to_data` gave.

    Args:
        data: JSON that was read.
        path: Where, for the error.

    Raises:
        DeploymentRecordError: It is no record of a deployment.
    """
    try:
        known = dict(data)
        _check(Deployment, {**known, "options": None, "supervisor": None, "server": None})
        _check(ServeOptions, known["options"])
        for process in (known["supervisor"], known["server"] or known["supervisor"]):
            _check(ProcessRef, process)
            if process["pid"] < 1:
                raise ValueError("a pid is a number from 1")
        for name in _PATHS:
            known[name] = None if known[name] is None else Path(known[name])
        known["options"] = ServeOptions(**known["options"])
        known["supervisor"] = ProcessRef(**known["supervisor"])
        known["server"] = None if known["server"] is None else ProcessRef(**known["server"])
        made = Deployment(**known)
        check_name(made.name)
        check_port(made.port)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DeploymentRecordError(path, f"is no record of a deployment: {error}") from None
    return made


def _check(kind: type, data: dict[str, Any]) -> None:
    """Holds what is said of each field to its type: whoever shows a record or acts on it need not ask again."""
    for name, hint in get_type_hints(kind).items():
        value = data.get(name)
        inner = value.values() if isinstance(value, dict) else ()
        if (name in data and not fits(value, hint)) or not all(fits(each, int) for each in inner):
            raise TypeError(f"{name} cannot be {str(value)[:80]!r}")
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{name} has a null character in it")


def check_name(name: str) -> str:
    """The name, if a deployment may have it.

    Raises:
        InvalidValueError: It may not.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidValueError("name", name, "use letters, digits, dots, dashes and underscores, 63 at most")
    return name


def check_port(port: int | None) -> int | None:
    """The port, if there is such a one.

    Raises:
        InvalidValueError: There is not.
    """
    if port is not None and not 0 <= port <= _MAX_PORT:
        raise InvalidValueError("port", port, f"give a number from 1 to {_MAX_PORT}, or 0 for a free port")
    return port
