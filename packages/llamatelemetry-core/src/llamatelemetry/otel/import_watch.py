"""Being told when a module is imported, without importing it.

Instrumenting must not cost an application a library that it never uses. What waits is one finder at
the head of ``sys.meta_path``, and only while something is waited for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class ImportWatch(MetaPathFinder):
    """Calls functions with modules: those already imported at once, the others as soon as they are.

    Args:
        on_import: By full name of a module, what to call with it. It must not raise.
    """

    def __init__(self, on_import: dict[str, Callable[[ModuleType], None]]) -> None:
        self._on_import = dict(on_import)
        self._lock = threading.Lock()
        self._finding = threading.local()

    def start(self) -> None:
        """Begins to watch."""
        for name in tuple(self._on_import):
            if name in sys.modules:
                # Imported again, which waits for another thread that may not be through with it.
                self._tell(importlib.import_module(name), name)
        with self._lock:
            if self._on_import:
                sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Stops watching; idempotent."""
        with self._lock:
            self._on_import.clear()
            self._leave()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds what the other finders find, with a loader that tells us when it has loaded it."""
        if fullname not in self._on_import or getattr(self._finding, "name", None) == fullname:
            return None
        self._finding.name = fullname
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._finding.name = None
        if spec is not None and spec.loader is not None:
            spec.loader = _TellingLoader(spec.loader, self._loaded)
        return spec

    def _loaded(self, module: ModuleType) -> None:
        self._tell(module, module.__name__)
        with self._lock:
            if not self._on_import:
                self._leave()

    def _tell(self, module: ModuleType, name: str) -> None:
        with self._lock:
            tell = self._on_import.pop(name, None)
        if tell is not None:
            tell(module)

    def _leave(self) -> None:
        # By identity: what others put there may compare as it likes.
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]


class _TellingLoader(Loader):
    """A loader that is somebody else's in all but one thing."""

    def __init__(self, loader: Any, loaded: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._loaded = loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the loader does."""
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """As the loader does; the module is given its own loader back before it runs."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._loaded(module)
