"""One child process, from start to reaped, with the end of its log kept at hand.

A single thread starts the child, reads its output and waits for its end. It is the same thread for
a reason: the kernel ties the child's life to the thread that started it (see ``child``), so that
thread has to live exactly as long as the child does.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Final

LOG_LINES: Final = 200
"""Log lines kept in memory."""

LINE_BYTES: Final = 2000
"""Bytes kept of one line; a longer one is cut into several."""

_READ_BYTES: Final = 65536
_POLL_MS: Final = 1000


class ChildProcess:
    """A child process that logs to a bounded ring and, optionally, to a file.

    Args:
        command: Program and arguments.
        environ: Its environment; ours when None.
        log_file: Where its whole output is appended.
        on_line: Told of each line, in the thread that reads them; True keeps a line out of the log.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        log_file: Path | None = None,
        on_line: Callable[[str], bool] = lambda _line: False,
    ) -> None:
        self.command: tuple[str, ...] = tuple(command)
        self.ended: threading.Event = threading.Event()
        """Set once the child is gone and reaped."""
        self._environ = environ
        self._log_path = log_file
        self._on_line = on_line
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._owner_pid = os.getpid()
        self._reaping = threading.Lock()
        self._started = threading.Event()
        self._start_error: OSError | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="llama-server-log", daemon=True)

    def start(self) -> None:
        """Starts it and returns once it has a process id.

        Raises:
            OSError: It could not be started, or its log file cannot be written.
        """
        self._thread.start()
        self._started.wait()
        if self._start_error is not None:
            self._thread.join()
            raise self._start_error

    @property
    def pid(self) -> int | None:
        """Its process id; None before it started."""
        return None if self._process is None else self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.returncode if self._process is not None and self.ended.is_set() else None

    def log_tail(self, lines: int = LOG_LINES) -> tuple[str, ...]:
        """The last lines it logged, oldest first."""
        return tuple(self._lines.copy())[-lines:]

    def stop(self, grace_s: float) -> None:
        """Ends it: SIGTERM, then SIGKILL after ``grace_s`` seconds. Idempotent; returns when it is gone.

        In a fork of the process that started it this does nothing: the child is not the fork's to end.
        """
        if self._thread.ident is None or os.getpid() != self._owner_pid:
            return
        self._started.wait()
        self._signal(signal.SIGTERM)
        if not self.ended.wait(grace_s):
            self._signal(signal.SIGKILL)
        self._thread.join()

    def _signal(self, number: signal.Signals) -> None:
        with self._reaping:  # not between its end and the moment its process id is free for another
            if self._process is not None and self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):  # somebody else reaped it
                    os.killpg(self._process.pid, number)

    def _run(self) -> None:
        with contextlib.ExitStack() as files:
            try:
                log = None if self._log_path is None else files.enter_context(self._log_path.open("ab", buffering=0))
                process = subprocess.Popen(
                    self.command,
                    env=self._environ,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    bufsize=0,
                    # A session of its own: Ctrl-C in the terminal is for the application alone, and what
                    # a wrapper script starts can be ended together with it.
                    start_new_session=True,
                )
            except OSError as error:
                self._start_error = error
                self.ended.set()
                self._started.set()
                return
            self._process = process
            self._started.set()
            self._read(process, log)
            self._reap(process)
        self.ended.set()

    def _read(self, process: subprocess.Popen[bytes], log: FileIO | None) -> None:
        output = process.stdout
        if output is None:
            return
        rest = b""
        readable = select.poll()
        readable.register(output.fileno(), select.POLLIN)
        while True:
            if not readable.poll(_POLL_MS):
                # The end of the output is the end of the child, unless a wrapper's own child keeps it open.
                if _has_ended(process.pid):
                    break
                continue
            chunk = os.read(output.fileno(), _READ_BYTES)
            if not chunk:
                break
            if log is not None:
                # A full disk costs the file its end, never the server.
                with contextlib.suppress(OSError):
                    log.write(chunk)
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                self._note(line)
            if len(rest) > LINE_BYTES:
                self._note(rest)
                rest = b""
        self._note(rest)

    def _note(self, line: bytes) -> None:
        for start in range(0, len(line), LINE_BYTES):
            text = line[start : start + LINE_BYTES].decode("utf-8", "replace").rstrip()
            if text and not self._on_line(text):
                self._lines.append(text)

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        # Waits without reaping, so that the process id stays the child's until the lock is held.
        # ChildProcessError: somebody else reaped it, with a wait for any child.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._reaping:
            if _has_ended(process.pid):
                with contextlib.suppress(ProcessLookupError):  # somebody else reaped it
                    os.killpg(process.pid, signal.SIGKILL)  # whatever a wrapper script leaves behind
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _has_ended(pid: int) -> bool:
    """True for a child that ended and was not reaped."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:
        return False
