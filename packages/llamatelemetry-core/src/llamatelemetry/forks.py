"""What starts anew in a child process: locks that nobody there holds, threads that only the parent has.

Python's own handlers of a fork cannot be taken back, so that one for each object would keep all of them,
or a trace of each, until the process ends. There is one here for all, and it keeps nobody alive.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

_methods: dict[weakref.WeakMethod[Callable[[], Any]], None] = {}


def after_fork(method: Callable[[], Any]) -> None:
    """Has a method called in every child process that is forked while its object lives.

    Methods are called in the order in which they were given.

    Args:
        method: A bound method. Its object is not kept alive.
    """
    _methods[weakref.WeakMethod(method, _forget)] = None


def _forget(dead: weakref.WeakMethod[Callable[[], Any]]) -> None:
    _methods.pop(dead, None)


def _in_child() -> None:
    for reference in list(_methods):
        method = reference()
        if method is not None:
            method()


os.register_at_fork(after_in_child=_in_child)
