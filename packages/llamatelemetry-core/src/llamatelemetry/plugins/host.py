"""Everything the rest of core asks of plugins, in one object that does not fail.

Each method asks every loaded plugin on its own. What one of them breaks is written to its report
and left out of the answer; only asking for a name that cannot be had raises.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.config import VARIABLES, Settings
from llamatelemetry.errors import LlamatelemetryError, MissingDependencyError, ModelFileError, PluginError
from llamatelemetry.plugins.check import Check, CheckState
from llamatelemetry.plugins.discovery import find_candidates
from llamatelemetry.plugins.faults import ANY_FAULT, describe
from llamatelemetry.plugins.hookspecs import ResourceValue
from llamatelemetry.plugins.loader import LoadedPlugin, load
from llamatelemetry.plugins.offers import OFFERS, model_format
from llamatelemetry.plugins.registry import Registration, Registry
from llamatelemetry.plugins.report import PluginReport, PluginState

if TYPE_CHECKING:  # Names of higher floors, for the reader and the type checker alone.
    from llamatelemetry.backends.protocol import Backend
    from llamatelemetry.distributed.shape import ModelShape
    from llamatelemetry.inference.sink import SpanEnricher
    from llamatelemetry.pipeline.stage import Stage

ECHO_TARGET: Final = "llamatelemetry.backends.echo:EchoBackend"
"""The backend that core brings itself."""
BENCHMARK_TARGET: Final = "llamatelemetry.bench.stage:BenchmarkStage"
"""The stage that core brings itself."""


class Plugins:
    """The installed plugins and what they registered. Made by :func:`load_plugins`.

    Attributes:
        backends: Names of backends to their classes.
        stages: Names of pipeline stages to their classes.
    """

    def __init__(self, loaded: Iterable[LoadedPlugin]) -> None:
        self._loaded = tuple(loaded)
        self.backends: Registry = Registry("backend")
        self.backends.add("echo", ECHO_TARGET, summary="Repeats the prompt; needs no model.")
        self.stages: Registry = Registry("stage")
        self.stages.add("benchmark", BENCHMARK_TARGET, summary="Runs a model and reports how fast it answers.")
        self._enrichers = Registry("enricher")
        self._checks = Registry("check")
        self._model_readers = Registry("model reader")
        self._collect("register_backends", self.backends)
        self._collect("register_pipeline_stages", self.stages)
        self._collect("register_enrichers", self._enrichers)
        self._collect("register_checks", self._checks)
        self._collect("register_model_readers", self._model_readers)

    @property
    def reports(self) -> tuple[PluginReport, ...]:
        """One report for each installed plugin, by name, as things stand now."""
        return tuple(plugin.report for plugin in self._loaded)

    def resolve_backend(self, name: str) -> type[Backend]:
        """Imports a backend and returns its class.

        Raises:
            UnknownNameError: No plugin registers it; says what is registered and what to install.
            PluginError: It is registered and cannot be imported.
        """
        return self._resolve_class(self.backends, name)

    def resolve_stage(self, name: str) -> type[Stage]:
        """Imports a stage of pipelines and returns its class.

        Raises:
            UnknownNameError: No plugin registers it; says what is registered and what to install.
            PluginError: It is registered and cannot be imported.
        """
        return self._resolve_class(self.stages, name)

    def enrichers(self) -> list[SpanEnricher]:
        """A new instance of each registered ``SpanEnricher``."""
        instances: list[SpanEnricher] = []
        for registration in self._enrichers:
            try:
                enricher = self._resolve(self._enrichers, registration)
            except PluginError:
                continue  # Already in the report.
            try:
                instances.append(enricher())
            except ANY_FAULT as error:
                self._fail(registration.plugin, f"enricher {registration.name!r} raised {describe(error)}")
        return instances

    def checks(self) -> dict[str, list[Check]]:
        """Runs each registered check; its registered name to what it found."""
        return {registration.name: self._check(registration) for registration in self._checks}

    def read_model_shape(self, path: Path) -> ModelShape:
        """The sizes of the model at ``path``, from the first reader that knows its format.

        Raises:
            ModelFileError: There is nothing, it is damaged, or no reader knows its format.
            MissingDependencyError: The plugin that would know its format is not installed.
            PluginError: It is installed and not usable, or its reader broke.
        """
        if not path.exists():
            raise ModelFileError(path, "does not exist")
        faults: list[str] = []
        for registration in self._model_readers:
            try:
                shape: ModelShape | None = self._resolve(self._model_readers, registration)(path)
            except PluginError as error:
                faults.append(str(error))
            except LlamatelemetryError:
                raise  # The reader's verdict on a file of its format.
            except ANY_FAULT as error:
                faults.append(f"model reader {registration.name!r} raised {describe(error)}")
                self._fail(registration.plugin, faults[-1])
            else:
                if shape is not None:
                    return shape
        raise self._unread(path, faults)

    def detect_resource(self, settings: Settings) -> dict[str, ResourceValue]:
        """Resource attributes of all plugins together; where two disagree, the later name wins."""
        attributes: dict[str, ResourceValue] = {}
        for plugin in self._loaded:
            for answer in plugin.call("detect_resource", settings=settings) or ():
                if _is_resource(answer):
                    attributes.update(answer)
                else:
                    plugin.fail("hook detect_resource must return names to text, numbers, booleans or lists of text")
        return attributes

    def configure(self, settings: Settings) -> Settings:
        """Settings as amended by each plugin in turn."""
        for plugin in self._loaded:
            for answer in plugin.call("configure", settings=settings) or ():
                if isinstance(answer, Settings):
                    settings = answer
                else:
                    plugin.fail(f"hook configure must return Settings or None, not {type(answer).__name__}")
        return settings

    def add_commands(self, group: Registry) -> None:
        """Adds the verbs that plugins bring; a name that ``group`` already has stays as it is."""
        self._collect("register_commands", group)

    def trouble_with(self, distribution: str) -> str:
        """Why an installed distribution's plugin is not in full use, and what to do; "" if nothing is known."""
        for report in self.reports:
            if report.distribution == distribution and report.state is not PluginState.LOADED:
                error = (report.error or "").replace("\n", "; ")
                fix = f". Fix: {report.fix}" if report.fix else ""
                where = f"Plugin {report.name!r} of {distribution} is installed but not usable"
                return f"{where} ({report.state}): {error}{fix}"
        return ""

    def _unread(self, path: Path, faults: list[str]) -> LlamatelemetryError:
        if faults:
            return PluginError(f"{path} could not be read: {'; '.join(faults)}")
        known = model_format(path) or ""
        offer = OFFERS.get(("model reader", known))
        if offer is None or known in self._model_readers:
            formats = ", ".join(self._model_readers.names) or "none"
            return ModelFileError(path, f"is in no format that an installed plugin reads; formats: {formats}")
        trouble = self.trouble_with(offer.distribution)
        if trouble:
            return PluginError(f"{path} cannot be read. {trouble}")
        return MissingDependencyError(f"reading {path.name}", offer.distribution, offer.command)

    def _hint(self, kind: str, name: str) -> str:
        offer = OFFERS.get((kind, name))
        if offer is None:
            return ""
        return self.trouble_with(offer.distribution) or f"Run: {offer.command}"

    def _collect(self, hook: str, registry: Registry) -> None:
        for plugin in self._loaded:
            draft = Registry(registry.kind)
            # What a hook registered before it raised is dropped: half a registration is no promise.
            answers = plugin.call(hook, **{"group" if hook == "register_commands" else "registry": draft})
            if answers is None:
                continue
            for item in draft:
                try:
                    registry.add(item.name, item.target, summary=item.summary, plugin=plugin.report.name)
                except PluginError as error:
                    plugin.fail(str(error))

    def _resolve_class(self, registry: Registry, name: str) -> type[Any]:
        registration = registry.get(name, self._hint(registry.kind, name))
        found = self._resolve(registry, registration)
        if not isinstance(found, type):
            problem = f"{registry.kind} {name!r} cannot be used: {registration.target} is not a class"
            self._fail(registration.plugin, problem)
            raise PluginError(problem)
        return found

    def _resolve(self, registry: Registry, registration: Registration) -> Any:
        try:
            return registry.resolve(registration.name)
        except PluginError as error:
            self._fail(registration.plugin, str(error))
            raise

    def _check(self, registration: Registration) -> list[Check]:
        try:
            found = list(self._resolve(self._checks, registration)())
            if not all(isinstance(check, Check) for check in found):
                raise TypeError("it must return a list of llamatelemetry.plugins.Check")
        except ANY_FAULT as error:
            problem = str(error) if isinstance(error, PluginError) else f"check raised {describe(error)}"
            return [Check(name=registration.name, state=CheckState.ERROR, detail=problem)]
        return found

    def _fail(self, name: str, problem: str) -> None:
        for plugin in self._loaded:
            if plugin.report.name == name and plugin.report.hooks:  # A namesake that was not used has none.
                plugin.fail(problem)


_cache: dict[tuple[tuple[str, ...] | None, tuple[str, ...]], Plugins] = {}
_cache_lock = threading.RLock()  # Re-entrant: a plugin may ask for plugins while it is imported.


def load_plugins(settings: Settings | None = None) -> Plugins:
    """The installed plugins, loaded once per process for each pair of allow and deny lists.

    Thread-safe. Imports plugin modules and none of their targets. Never raises.

    Args:
        settings: Whose ``plugins`` and ``disabled_plugins`` count; None reads those two from the
            environment and nothing else, so that a wrong variable elsewhere does not stop it.
    """
    settings = _lists_of_environment() if settings is None else settings
    key = (settings.plugins, settings.disabled_plugins)
    with _cache_lock:
        if key not in _cache:
            _cache[key] = Plugins(_load_all(settings))
        return _cache[key]


def _load_all(settings: Settings) -> list[LoadedPlugin]:
    loaded: list[LoadedPlugin] = []
    owners: dict[str, str] = {}
    for candidate in find_candidates():
        owner = owners.setdefault(candidate.name, candidate.distribution)
        loaded.append(load(candidate, settings, owner=owner))
    return loaded


def _lists_of_environment() -> Settings:
    lists: dict[str, Any] = {}
    for variable in VARIABLES:
        text = os.environ.get(variable.name, "").strip()
        if text and variable.field in {"plugins", "disabled_plugins"}:
            lists[variable.field] = variable.parse(text)
    return Settings(**lists)


def _is_resource(answer: object) -> bool:
    return isinstance(answer, Mapping) and all(
        isinstance(name, str) and (isinstance(value, str | bool | int | float) or _is_texts(value))
        for name, value in answer.items()
    )


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
