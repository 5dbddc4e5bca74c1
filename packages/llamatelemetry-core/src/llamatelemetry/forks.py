"""What starts anew in a child process: locks that nobody there holds, threads that only the parent has.

Python's own handlers of a fork cannot be taken back, so that one for each object would keep all of them,
or a trace of each, until the process ends. There is one here for all, and it keeps nobody alive.
"""

from __future__ import annotations

import logging
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any, Final

_log = logging.getLogger(__name__)
_methods: dict[weakref.WeakMethod[Callable[[], Any]], None] = {}


def after_fork(method: Callable[[], Any]) -> None:
    """Has a method called in every child process that is forked while its object lives.

    Methods are called in the order in which they were given.

    Args:
        method: A bound method. Its object is not kept alive.
    """
    _methods[weakref.WeakMethod(method, _forget)] = None


def at_end_of_worker(function: Callable[[], object]) -> None:
    """Has a function called when a process that ``multiprocessing`` has forked comes to its end.

    Such a process, a worker of a pool for example, may end without what was registered with ``atexit``, and
    what waits to be sent would be lost without a word. To be called in the child, as soon as it is forked. In
    one that was forked by anything else it does nothing.

    Args:
        function: What to call, after the worker's own work and after its children have ended; in workers
            that the child forks, too.
    """
    util = sys.modules.get("multiprocessing.util")
    if util is not None and function not in _at_end:
        _at_end.append(function)
        # Not told at once what to do at its end, because a worker begins with forgetting all of that.
        util.register_after_fork(function, _promise)


def at_end_of_this_worker(function: Callable[[], object]) -> None:
    """Has a function called when this process comes to its end, if it is a worker of ``multiprocessing`` at work.

    It is what :func:`at_end_of_worker` does for one that was not told so when it was forked. In a process that
    is no worker it does nothing.

    Args:
        function: What to call, after the worker's own work and after its children have ended.
    """
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        import multiprocessing.util  # noqa: F401 - there, as a rule, and always before the worker ends.

        _promise(function)


_at_end: Final[list[Callable[[], object]]] = []
_promised: Final[dict[Callable[[], object], int]] = {}


def _promise(function: Callable[[], object]) -> None:
    if _promised.get(function) != os.getpid():
        _promised[function] = os.getpid()
        # The number is an order: the negative ones come after whatever waits for the worker's children.
        sys.modules["multiprocessing.util"].Finalize(None, function, exitpriority=-1)


def _forget(dead: weakref.WeakMethod[Callable[[], Any]]) -> None:
    _methods.pop(dead, None)


def _in_child() -> None:
    for reference in list(_methods):
        method = reference()
        if method is None:
            continue
        try:
            method()
        except Exception:  # noqa: BLE001 - those after it are owed their turn, or wait for the parent for ever
            _log.exception("a forked child keeps something of its parent's")


os.register_at_fork(after_in_child=_in_child)
