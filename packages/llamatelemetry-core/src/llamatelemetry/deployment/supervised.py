"""A supervisor as whoever starts it sees it: a server on trial, which is kept or goes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamatelemetry.deployment.processes import ProcessRef, end, process_ref, wait_gone
from llamatelemetry.deployment.state import DeploymentFolder
from llamatelemetry.deployment.supervisor import STAY
from llamatelemetry.errors import BackendStartError

_HOST: Final = "127.0.0.1"
_MODULE: Final = "llamatelemetry.deployment.supervisor"
_GRACE_S: Final = 10.0
_TAIL_LINES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A server that is ready.

    Attributes:
        url: Its base URL.
        port: Its port.
        model: Name that it gives the model.
        supervisor: The process that it belongs to.
        server: It; None where its backend does not tell.
    """

    url: str
    port: int
    model: str
    supervisor: ProcessRef
    server: ProcessRef | None


class Candidate:
    """A server on trial. It ends with this process unless it is told to stay.

    Args:
        folder: Where its deployment is kept.
        deployment_id: Its deployment.
        backend: Name of the backend that starts it.
        options: Arguments of that backend.
        detached: It may outlive this process once it is told to stay.
    """

    def __init__(
        self, folder: DeploymentFolder, deployment_id: str, *, backend: str, options: dict[str, Any], detached: bool
    ) -> None:
        self.log: Path = folder.log(deployment_id)
        self._folder = folder
        self._id = deployment_id
        self._told = {
            "name": folder.name,
            "home": str(folder.home),
            "id": deployment_id,
            "backend": backend,
            "options": {**options, "log_file": str(self.log)},
            "detached": detached,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor: ProcessRef | None = None

    def start(self) -> Serving:
        """Starts it and returns when it serves.

        Raises:
            BackendStartError: It did not; says why, with its last log lines.
        """
        command = [sys.executable, "-P", "-m", _MODULE, self._folder.name, self._id]
        with self.log.open("ab") as log:
            self._process = process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                # Ctrl-C in the terminal is for us alone; the end of the terminal is not its end.
                start_new_session=True,
            )
        try:
            self._write(json.dumps(self._told).encode() + b"\n")
            if self._told["detached"]:
                process.wait()
            return self._serving()
        except BaseException:
            self.abandon()
            raise

    def stay(self) -> None:
        """Lets it outlive this process."""
        self._write(STAY)
        self._close()

    def abandon(self) -> None:
        """Ends it, and returns when it is gone; idempotent."""
        self._close()
        supervisor, process = self._supervisor, self._process
        if supervisor is not None and not wait_gone(supervisor, _GRACE_S):
            end(supervisor, 0)
        if process is not None and process.returncode is None:
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def wait(self) -> int:
        """Waits for the end of one that is not detached; its exit code, 1 if the server ended by itself."""
        return 0 if self._process is None else self._process.wait()

    def _serving(self) -> Serving:
        supervisor = self._supervisor = process_ref(self._news()["pid"])
        news = self._news()
        if "ready" not in news:
            raise BackendStartError(news["failed"]["message"])
        ready = news["ready"]
        if supervisor is None:
            raise BackendStartError("the supervisor ended as soon as its server was ready", self._tail())
        return Serving(
            url=f"http://{_HOST}:{ready['port']}",
            port=ready["port"],
            model=ready["model"],
            supervisor=supervisor,
            server=None if ready["server_pid"] is None else process_ref(ready["server_pid"]),
        )

    def _news(self) -> dict[str, Any]:
        output = None if self._process is None else self._process.stdout
        try:
            news: dict[str, Any] = json.loads(b"" if output is None else output.readline())
        except ValueError:
            raise BackendStartError("the supervisor ended before its server was ready", self._tail()) from None
        return news

    def _tail(self) -> tuple[str, ...]:
        # What it writes last may come a moment after its end was noticed.
        time.sleep(0.05)
        try:
            return tuple(self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        except OSError:
            return ()

    def _write(self, line: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            try:
                self._process.stdin.write(line)
            except OSError as error:
                raise BackendStartError(f"the supervisor ended: {error.strerror}", self._tail()) from None

    def _close(self) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
