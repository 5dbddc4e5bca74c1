"""Names to lazy targets: what a plugin registers without importing it.

A target is ``"package.module:attribute"``. It is imported when its name is asked for and not
before, so that finding out what is installed costs nothing and breaks on nothing.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

from llamatelemetry.errors import PluginError, UnknownNameError
from llamatelemetry.plugins.faults import ANY_FAULT, describe

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DOTTED: Final = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_TARGET: Final = re.compile(f"{_DOTTED}:{_DOTTED}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One registered name.

    Attributes:
        name: What it is asked for by.
        target: ``"package.module:attribute"``.
        summary: One line on what it is; shown for commands.
        plugin: Plugin that registered it; empty for what core brings itself.
    """

    name: str
    target: str
    summary: str = ""
    plugin: str = ""


class Registry:
    """Registrations of one kind, by name, in order of registration.

    Args:
        kind: What is registered, as error messages name it: ``backend``, ``command``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._registrations: dict[str, Registration] = {}

    def add(self, name: str, target: str, *, summary: str = "", plugin: str = "") -> None:
        """Registers a name.

        Args:
            name: Letters, digits, dots, dashes and underscores.
            target: ``"package.module:attribute"``; not imported.
            summary: One line on what it is.
            plugin: Filled in by the loader; a hook leaves it out.

        Raises:
            PluginError: The name or target is malformed, or the name is taken.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise PluginError(f"{name!r} cannot name a {self.kind}: use letters, digits, dots, dashes and underscores")
        if not isinstance(target, str) or not _TARGET.fullmatch(target):
            raise PluginError(
                f"{self.kind} {name!r} has the target {target!r}: give a string such as 'package.module:attribute'"
            )
        taken = self._registrations.get(name)
        if taken is not None:
            owner = f"plugin {taken.plugin!r}" if taken.plugin else "llamatelemetry itself"
            raise PluginError(f"{self.kind} {name!r} is already registered by {owner}; the first one is kept")
        self._registrations[name] = Registration(name=name, target=target, summary=summary, plugin=plugin)

    def __iter__(self) -> Iterator[Registration]:
        return iter(tuple(self._registrations.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._registrations

    def __len__(self) -> int:
        return len(self._registrations)

    @property
    def names(self) -> tuple[str, ...]:
        """Every registered name, sorted."""
        return tuple(sorted(self._registrations))

    def get(self, name: str, hint: str = "") -> Registration:
        """The registration of ``name``.

        Raises:
            UnknownNameError: Nothing is registered under it; ends with ``hint``.
        """
        try:
            return self._registrations[name]
        except KeyError:
            raise UnknownNameError(self.kind, name, self.names, hint) from None

    def resolve(self, name: str) -> Any:
        """Imports the target of ``name`` and returns it.

        Raises:
            UnknownNameError: Nothing is registered under it.
            PluginError: The target cannot be imported, or is not there.
        """
        registration = self.get(name)
        module_name, _, path = registration.target.partition(":")
        owner = f" of plugin {registration.plugin!r}" if registration.plugin else ""
        what = f"{self.kind} {name!r}{owner}"
        try:
            module = importlib.import_module(module_name)
        except ANY_FAULT as error:
            raise PluginError(f"{what} cannot be used: import of {module_name} raised {describe(error)}") from error
        try:
            return reduce(getattr, path.split("."), module)
        except AttributeError:
            raise PluginError(f"{what} cannot be used: {module_name} has no {path!r}") from None
