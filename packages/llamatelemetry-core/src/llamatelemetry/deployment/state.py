"""Where deployments are kept, one folder for each name.

::

    <home>/deployments/<name>/
        lock                  held while somebody changes anything here
        current.json          what was deployed last and passed
        history/<id>.json     all that passed, the latest 20
        ended/<id>.json       how a server ended that is no longer there
        logs/<id>.log         what each server logged

``<home>`` is ``LLAMATELEMETRY_HOME``, or ``llamatelemetry`` in ``XDG_STATE_HOME``, or in ``~/.local/state``.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, get_type_hints

from llamatelemetry.artifacts.atomic import write_atomically
from llamatelemetry.artifacts.tree import unreadable
from llamatelemetry.deployment.record import Deployment, check_name, deployment_of
from llamatelemetry.errors import DeploymentBusyError, DeploymentRecordError, UnknownNameError
from llamatelemetry.pipeline.parameters import fits

HOME_VARIABLE: Final = "LLAMATELEMETRY_HOME"
KEPT: Final = 20
"""Deployments of one name that are remembered."""

_MAX_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a server ended.

    Attributes:
        reason: In words.
        wanted: Somebody asked for it.
        ended_ns: When, in nanoseconds since the Unix epoch.
    """

    reason: str
    wanted: bool
    ended_ns: int


_ENDING: Final = get_type_hints(Ending)


def state_home() -> Path:
    """Where state is kept, as the environment says. It need not exist."""
    if named := os.environ.get(HOME_VARIABLE, "").strip():
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME", "").strip()
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "llamatelemetry"


def deployment_names(home: Path | None = None) -> tuple[str, ...]:
    """Every name that something was deployed under, sorted."""
    root = (home or state_home()) / "deployments"
    return tuple(sorted(path.parent.name for path in root.glob("*/current.json")))


class DeploymentFolder:
    """What is kept of one name.

    Args:
        name: The name.
        home: Where state is kept; as the environment says when None.

    Raises:
        InvalidValueError: No deployment may have that name.
    """

    def __init__(self, name: str, home: Path | None = None) -> None:
        self.name: str = check_name(name)
        self.home: Path = home or state_home()
        self.path: Path = self.home / "deployments" / name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps everybody else from changing it meanwhile.

        Raises:
            DeploymentBusyError: Somebody is changing it.
            ArtifactError: It cannot be written to.
        """
        try:
            for folder in (self.path, self.path / "history", self.path / "ended", self.path / "logs"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unreadable(self.path, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise DeploymentBusyError(self.name) from None
        finally:
            os.close(descriptor)

    def current(self) -> Deployment | None:
        """What was deployed last; None where nothing was.

        Raises:
            DeploymentRecordError: What is there is no record.
        """
        return read_deployment(self.path / "current.json")

    def known(self) -> Deployment:
        """What was deployed last.

        Raises:
            UnknownNameError: Nothing was.
            DeploymentRecordError: What is there is no record.
        """
        found = self.current()
        if found is None:
            hint = f"Records are kept in {self.home / 'deployments'}."
            raise UnknownNameError("deployment", self.name, deployment_names(self.home), hint)
        return found

    def history(self) -> tuple[Deployment, ...]:
        """All that passed and are remembered, the oldest first; what cannot be read is left out."""
        found = []
        for path in sorted((self.path / "history").glob("[!.]*.json")):
            with suppress(DeploymentRecordError):
                if record := read_deployment(path):
                    found.append(record)
        return tuple(found)

    def note(self, deployment: Deployment) -> None:
        """Makes it the current one, and remembers it.

        Raises:
            ArtifactError: It cannot be written.
        """
        content = _json(deployment.to_data())
        write_atomically(self.path / "history" / f"{deployment.id}.json", content)
        write_atomically(self.path / "current.json", content)
        oldest = sorted((self.path / "history").glob("[!.]*.json"))[-KEPT:][0].stem
        # Ids sort by time. What failed was never remembered and left its log too.
        for path in (*self.path.glob("history/*.json"), *self.path.glob("ended/*.json"), *self.path.glob("logs/*.log")):
            if path.stem < oldest:
                path.unlink(missing_ok=True)

    def log(self, deployment_id: str) -> Path:
        """Where its server's log goes."""
        return self.path / "logs" / f"{deployment_id}.log"

    def note_end(self, deployment_id: str, ending: Ending) -> None:
        """Says how its server ended.

        Raises:
            ArtifactError: It cannot be written.
        """
        write_atomically(self.path / "ended" / f"{deployment_id}.json", _json(asdict(ending)))

    def ending(self, deployment_id: str) -> Ending | None:
        """How its server ended; None where nobody has said that it did."""
        with (
            suppress(OSError, ValueError, TypeError, RecursionError),
            (self.path / "ended" / f"{deployment_id}.json").open("rb") as file,
        ):
            made = Ending(**json.loads(file.read(_MAX_BYTES)))
            return made if all(fits(getattr(made, name), hint) for name, hint in _ENDING.items()) else None
        return None


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, indent=1).encode() + b"\n"


def read_deployment(path: Path) -> Deployment | None:
    """The deployment that a file is the record of; None where there is no file.

    Raises:
        DeploymentRecordError: What is there is no record.
    """
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(_MAX_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DeploymentRecordError(path, f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DeploymentRecordError(path, f"is no record of a deployment: {error}") from None
    return deployment_of(data, path)
