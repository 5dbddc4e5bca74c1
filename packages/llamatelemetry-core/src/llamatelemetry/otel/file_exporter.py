"""Telemetry into files: one OTLP/JSON export request a line, ready to be replayed to any receiver.

The exporter of a process with no endpoint. A full disk costs the application nothing: what cannot
be written is counted as lost and said once, until writing works again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan

from llamatelemetry.errors import ConfigurationError
from llamatelemetry.otel.delivery import Signal
from llamatelemetry.otel.otlp_json import Json, dump_line, logs_request, metrics_request, traces_request
from llamatelemetry.otel.rotation import RotatingFile

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)


class FileSender(Generic[_T]):
    """Writes each batch as one line.

    Args:
        file: Where to.
        encode: Makes one export request of a batch.
        max_bytes: A longer line is split while it holds more than one item.
    """

    def __init__(self, file: RotatingFile, encode: Callable[[Sequence[_T]], Json], max_bytes: int) -> None:
        self._file = file
        self._encode = encode
        self._max_bytes = max_bytes
        self._failing = False
        self._writing = threading.Lock()
        self._closed = False

    def send(self, batch: Sequence[_T]) -> int:
        """Writes the batch; items that the disk would not have did not arrive."""
        line = dump_line(self._encode(batch))
        if len(line) > self._max_bytes and len(batch) > 1:
            half = len(batch) // 2
            return self.send(batch[:half]) + self.send(batch[half:])
        try:
            with self._writing:
                self._file.write(line)
                if self._closed:
                    self._file.close()
        except OSError as error:
            if not self._failing:
                _logger.warning("telemetry cannot be written and is being lost: %s", error)
            self._failing = True
            return 0
        self._failing = False
        return len(batch)

    def close(self) -> None:
        """Lets go of the file; while a line is being written, that is done when it has been."""
        self._closed = True
        # A disk may hang in the middle of a line, and its file's number be another file's once it is closed.
        if self._writing.acquire(blocking=False):
            self._file.close()
            self._writing.release()

    def disown(self) -> None:
        """Lets go of the parent's file."""
        self._file.close()


def file_spans(folder: Path, max_bytes: int, max_count: int) -> FileSender[ReadableSpan]:
    """A sender of spans to ``traces-….jsonl`` in ``folder``."""
    return FileSender(_file(folder, "traces", max_bytes, max_count), traces_request, max_bytes)


def file_logs(folder: Path, max_bytes: int, max_count: int) -> FileSender[ReadableLogRecord]:
    """A sender of log records to ``logs-….jsonl`` in ``folder``."""
    return FileSender(_file(folder, "logs", max_bytes, max_count), logs_request, max_bytes)


def file_metrics(folder: Path, max_bytes: int, max_count: int) -> FileSender[MetricsData]:
    """A sender of metrics to ``metrics-….jsonl`` in ``folder``; one export is one item."""
    return FileSender(_file(folder, "metrics", max_bytes, max_count), _metrics_request, max_bytes)


def prepare_folder(folder: Path) -> Path:
    """Makes the folder and returns its absolute path, so that a later ``chdir`` moves nothing.

    Raises:
        ConfigurationError: It cannot be made, or nothing can be written there.
    """
    try:
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".llamatelemetry-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:  # The latter of a name that no file can have.
        raise ConfigurationError("telemetry_dir", str(folder), f"give a folder that can be written: {error}") from None
    return folder


def _metrics_request(batch: Sequence[MetricsData]) -> Json:
    return {"resourceMetrics": [group for data in batch for group in metrics_request(data)["resourceMetrics"]]}


def _file(folder: Path, signal: Signal, max_bytes: int, max_count: int) -> RotatingFile:
    return RotatingFile(folder, signal, max_bytes=max_bytes, max_count=max_count)
