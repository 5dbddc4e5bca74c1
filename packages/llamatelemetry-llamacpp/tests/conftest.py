"""A real llama.cpp for every test that wants one, and the rule that no test leaves anything behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.llama.server import LlamaServer

SESSION_THREADS: set[threading.Thread] = set()
SESSION_PROCESSES: set[psutil.Process] = set()


def _processes() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True)) - SESSION_PROCESSES


def _threads() -> set[threading.Thread]:
    return set(threading.enumerate()) - SESSION_THREADS


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    processes, threads = _processes(), _threads()
    yield
    leaked = _processes() - processes
    for process in leaked:
        process.kill()
    assert not leaked, "a test left processes behind"
    for thread in _threads() - threads:
        thread.join(5)  # it may be on its way out
    assert not _threads() - threads, "a test left threads behind"


@pytest.fixture
def wait_gone() -> Callable[[psutil.Process], None]:
    """Waits until a process that is nobody's child any more has ended, for two seconds at most."""

    def wait(process: psutil.Process) -> None:
        limit = time.monotonic() + 2
        # An orphan stays a zombie for as long as the machine's first process likes.
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < limit, "it outlived its parent"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def model_path() -> Path:
    """SmolLM2-135M, a real model."""
    return demo_model()


@pytest.fixture(scope="session")
def server(model_path: Path) -> Iterator[LlamaServer]:
    """A running server that tests share: two slots of 512 tokens, one thread."""
    processes, threads = _processes(), _threads()
    with LlamaServer(model_path, slots=2, context_length=512, threads=1) as running:
        SESSION_PROCESSES.update(_processes() - processes)
        SESSION_THREADS.update(_threads() - threads)
        yield running
