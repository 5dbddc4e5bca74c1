"""Our functions in place of somebody else's, and theirs back again, exactly.

Others patch the same functions, and take their patches off when they like. Where somebody has patched
over ours, ours cannot be taken out from under: it stays where it is and only passes calls on, until it
is called from the top again, finds that it is, and removes itself.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

Around = Callable[..., Any]
"""Called in place of a function with the function itself first, then its arguments."""

_ABSENT: Final = object()
_MARK: Final = "_llamatelemetry_patch"


class Patches:
    """What was put in place, and what was there before. One thread at a time puts and restores."""

    def __init__(self) -> None:
        self._placed: list[_Patch] = []

    def around(self, owner: Any, name: str, around: Around) -> None:
        """Puts ``around`` about the function that a class or module holds under a name.

        Nothing happens where there is no such function, or where it is patched by us already.

        Args:
            owner: Class or module. It is not kept alive.
            name: Name of the function, of its own and not inherited.
            around: Called in its place.
        """
        self._place(owner, name, lambda patch, original: _calling(patch, original, around))

    def around_setter(self, owner: Any, name: str, around: Around) -> None:
        """Puts ``around`` about the setter of a property, as :meth:`around` does about a function."""

        def setting(patch: _Patch, original: Any) -> Any:
            if not isinstance(original, property) or original.fset is None:
                return None
            return property(original.fget, _calling(patch, original.fset, around), original.fdel, original.__doc__)

        self._place(owner, name, setting)

    def add(self, owner: Any, name: str, value: Any) -> None:
        """Gives a class a name that it does not have of its own; nothing happens where it has."""
        if name not in vars(owner):
            patch = _Patch(owner, name, _ABSENT)
            patch.replacement = value
            setattr(owner, name, value)
            self._placed.append(patch)

    def restore(self) -> None:
        """Takes everything back, the latest first; idempotent."""
        while self._placed:
            self._placed.pop().remove()

    def _place(self, owner: Any, name: str, make: Callable[[_Patch, Any], Any]) -> None:
        original = vars(owner).get(name)
        while (ours := _patch_of(original)) is not None:
            if not ours.off:
                return
            original = ours.original  # A leftover of an earlier time: it need not be passed through again.
        patch = _Patch(owner, name, original)
        replacement = None if original is None else make(patch, original)
        if replacement is not None:
            patch.replacement = replacement
            setattr(owner, name, replacement)
            self._placed.append(patch)


class _Patch:
    """One name of one owner."""

    __slots__ = ("__weakref__", "name", "off", "original", "owner", "replacement")

    def __init__(self, owner: Any, name: str, original: Any) -> None:
        self.owner = weakref.ref(owner)
        self.name = name
        self.original = original
        self.replacement: Any = None
        self.off = False

    def remove(self) -> None:
        """Puts back what was there, if what is there now is ours; else what is ours only passes calls on."""
        self.off = True
        owner = self.owner()
        if owner is None or vars(owner).get(self.name) is not self.replacement:
            return
        if self.original is _ABSENT:
            delattr(owner, self.name)
        else:
            setattr(owner, self.name, self.original)


def _calling(patch: _Patch, original: Any, around: Around) -> Callable[..., Any]:
    run = original if isinstance(original, FunctionType) else _bound_first(original)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if patch.off:
            patch.remove()
            return run(*args, **kwargs)
        return around(run, *args, **kwargs)

    setattr(call, _MARK, patch)
    return call


def _bound_first(original: Any) -> Callable[..., Any]:
    """Calls what others put there as the method that it is: a wrapper may care what it is bound to."""

    def run(instance: Any, *args: Any, **kwargs: Any) -> Any:
        return original.__get__(instance, type(instance))(*args, **kwargs)

    return run


def _patch_of(value: Any) -> _Patch | None:
    """The patch that a value is the replacement of. Wrappers of others bear our mark too: they copy it."""
    marked = value.fset if isinstance(value, property) else value
    patch = getattr(marked, _MARK, None)
    return patch if isinstance(patch, _Patch) and patch.replacement is value else None
