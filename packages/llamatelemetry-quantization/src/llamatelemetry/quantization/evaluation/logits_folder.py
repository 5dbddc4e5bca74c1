"""Files of logits, one for each window: there whole or not at all, of the size they must have, within a budget."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from llamatelemetry.errors import BackendError
from llamatelemetry.quantization.evaluation.llama_process import BATCH
from llamatelemetry.quantization.evaluation.logits import Logits

__all__ = ["LogitsFolder"]

_log: Final = logging.getLogger(__name__)


class LogitsFolder:
    """A folder that logits are kept in, made when there is something to keep.

    What cannot be kept is no error: the log says why, once, and whoever asks for it has it computed.

    Args:
        folder: Where it is.
        most_bytes: What all files in it may take; 0 for nothing more.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._taken_bytes = _bytes_in(folder)
        self.complete: bool = most_bytes > 0
        """Whether all that was to be kept is there."""

    def path(self, facts: Mapping[str, Any], ending: str) -> Path:
        """The file of what those facts decide."""
        told = json.dumps(facts, sort_keys=True).encode()
        return self._folder / (hashlib.sha256(told).hexdigest() + ending)

    def facts(self, path: Path) -> object:
        """What :meth:`note` wrote, to be looked at before it is used; None where that is not there."""
        try:
            return json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None

    def note(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes facts."""
        temporary = _temporary(path)
        try:
            temporary.write_text(json.dumps(facts))
            temporary.replace(path)
        except OSError as error:
            self._give_up(str(error))
        finally:
            with suppress(OSError):
                temporary.unlink()

    def blocks(self, path: Path, rows: int, vocabulary: int) -> Iterator[Logits] | None:
        """Logits as they were computed, in the same blocks; None where they are not there whole.

        Raises:
            BackendError: By the iterator: somebody changed the file while it was read.
        """
        size = 4 * rows * vocabulary
        try:
            there = path.stat().st_size
        except OSError:
            return None
        if there == size:
            return _read(path, rows, vocabulary)
        # What is computed anew takes its place.
        _log.warning("%s has %d bytes and not %d: its logits are computed anew", path, there, size)
        return None

    def keep(self, blocks: Iterator[Logits], path: Path, size: int) -> Iterator[Logits]:
        """Passes blocks on, and keeps them if there is room for ``size`` bytes."""
        temporary = _temporary(path)
        file = self._draft(temporary, size)
        if file is None:
            yield from blocks
            return
        try:
            with file:
                for block in blocks:
                    # A disk that is full after all makes the file too short, which is seen below.
                    with suppress(OSError):
                        file.write(block.data.cast("B"))
                    yield block
            self._name(temporary, path, size)
        finally:
            with suppress(OSError):
                temporary.unlink()

    def _draft(self, temporary: Path, size: int) -> IO[bytes] | None:
        if not self._most_bytes:
            return None
        if self._taken_bytes + size > self._most_bytes:
            self._give_up(f"they take more than the {self._most_bytes} bytes that they may")
            return None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if size > shutil.disk_usage(self._folder).free // 2:
                self._give_up(f"{size} bytes are over half of what is free at {self._folder}")
                return None
            return temporary.open("xb", buffering=0)
        except OSError as error:
            self._give_up(str(error))
            return None

    def _name(self, temporary: Path, path: Path, size: int) -> None:
        try:
            if temporary.stat().st_size == size:
                temporary.replace(path)
                self._taken_bytes += size
            else:
                self._give_up(f"not all of {size} bytes could be written to {self._folder}")
        except OSError as error:
            self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        if self.complete:
            _log.warning("not all logits are kept, and are computed for each model that needs them: %s", reason)
        self.complete = False


def _bytes_in(folder: Path) -> int:
    taken = 0
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):  # It was somebody's temporary one.
            taken += path.stat().st_size
    return taken


def _read(path: Path, rows: int, vocabulary: int) -> Iterator[Logits]:
    try:
        with path.open("rb", buffering=0) as file:
            for start in range(0, rows, BATCH):
                block = np.empty((min(BATCH, rows - start), vocabulary), np.float32)
                if file.readinto(block.data.cast("B")) != block.nbytes:
                    raise BackendError(f"{path} was cut short while it was read; measure again")
                yield block
    except OSError as error:
        raise BackendError(f"{path} cannot be read any more: {error.strerror}; measure again") from error


def _temporary(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(8)}.tmp")
