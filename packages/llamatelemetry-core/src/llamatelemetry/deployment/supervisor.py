"""The process that a deployed server belongs to: ``python -m llamatelemetry.deployment.supervisor NAME ID``.

It opens a backend, which starts the server as its child, and stays until the server ends or somebody
sends SIGTERM. The server dies with it, so nothing serves that no record knows. Whoever starts it says on
its standard input what to do, in one line of JSON, and hears on its standard output what came of it. Until
it was told to stay, it ends when its standard input does: a deployment that was cut off leaves nothing.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from llamatelemetry.backends.protocol import Backend, EndExplaining, ModelInfo
from llamatelemetry.deployment.state import DeploymentFolder, Ending
from llamatelemetry.errors import ArtifactError
from llamatelemetry.plugins import load_plugins

STAY: Final = b"stay\n"
"""The line that makes it independent of whoever started it."""

_LOOK_S: Final = 0.25
_SERVER_LOST: Final = 1


class _Told(BaseException):
    """Somebody wants it to end."""


def main() -> int:
    """Serves until told to end, which is 0, or until the server has ended by itself, which is 1."""
    told = json.loads(sys.stdin.buffer.readline())
    if told["detached"] and os.fork():
        # Whoever waits for its child has it now, and the other is nobody's.
        os._exit(0)
    _say({"pid": os.getpid()})
    signal.signal(signal.SIGTERM, _raise)
    # Ctrl-C is for whoever started it, who then decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whoever started it has held the file to its manifest; here it is not hashed once more.
    logging.getLogger("llamatelemetry").setLevel(logging.ERROR)
    folder = DeploymentFolder(told["name"], Path(told["home"]))
    backend = _backend(told["backend"], told["options"])
    owner = _Owner(backend)
    wanted, reason = True, "it was told to stop"
    try:
        try:
            info = backend.open()
        except Exception as error:  # noqa: BLE001 - whoever started it is told what it was
            _say({"failed": {"type": type(error).__name__, "message": str(error)}})
            return _SERVER_LOST
        _say({"ready": _facts(info)})
        while (end := _end_of(backend)) is None:
            if owner.left.is_set():
                raise _Told
            time.sleep(_LOOK_S)
        wanted, reason = False, end
    except _Told:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    finally:
        backend.close()
        with suppress(ArtifactError):  # The disk may be full, or the folder gone.
            folder.note_end(told["id"], Ending(reason=reason, wanted=wanted, ended_ns=time.time_ns()))
    return 0 if wanted else _SERVER_LOST


class _Owner:
    """Whoever started it, as long as it matters whether they are there.

    Attributes:
        left: Set when they are gone and did not say that it is to stay.
    """

    def __init__(self, backend: Backend) -> None:
        self.left: threading.Event = threading.Event()
        self._backend = backend
        threading.Thread(target=self._listen, name="deployment-owner", daemon=True).start()

    def _listen(self) -> None:
        if sys.stdin.buffer.readline() == STAY:
            # Nobody reads what it says from now on.
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, sys.stdin.fileno())
            os.dup2(nowhere, sys.stdout.fileno())
            return
        self.left.set()
        # It ends a start that still goes on.
        self._backend.close()


def _backend(name: str, options: dict[str, Any]) -> Backend:
    backend: Backend = load_plugins().resolve_backend(name)(**{**options, "log_file": Path(options["log_file"])})
    return backend


def _facts(info: ModelInfo) -> dict[str, Any]:
    return {"server_pid": info.pid, "model": info.model, "port": info.server_port}


def _end_of(backend: Backend) -> str | None:
    return backend.exit_reason() if isinstance(backend, EndExplaining) else None


def _say(news: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(news) + "\n")
    sys.stdout.flush()


def _raise(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise _Told


if __name__ == "__main__":
    sys.exit(main())
