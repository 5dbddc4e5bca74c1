"""Loads one plugin and calls its hooks, letting nothing it does reach anyone else.

pluggy stops at the first entry point that fails, refuses all for one unknown hook, and gives up a
call when one implementation raises. So each plugin has a manager to itself: pluggy checks its
signatures and passes it the arguments it takes, and a failure stays with the one that failed.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import Any, Final

import pluggy

from llamatelemetry.config import Settings
from llamatelemetry.plugins import hookspecs
from llamatelemetry.plugins.discovery import Candidate
from llamatelemetry.plugins.faults import ANY_FAULT, describe
from llamatelemetry.plugins.report import PluginReport, PluginState
from llamatelemetry.plugins.requirements import Obstacle, find_obstacle

_logger: Final = logging.getLogger("llamatelemetry.plugins")


class LoadedPlugin:
    """One plugin, its hooks, and the report that says what became of it.

    Args:
        report: How loading went.
        manager: Holds its hooks; None if it was not imported.
    """

    def __init__(self, report: PluginReport, manager: pluggy.PluginManager | None = None) -> None:
        self.report: PluginReport = report
        self._manager = manager
        self._lock = threading.Lock()

    def call(self, hook: str, **arguments: Any) -> list[Any] | None:
        """What its implementations of a hook returned, None answers left out; None if one raised. Never raises."""
        if self._manager is None or hook not in self.report.hooks:
            return []
        try:
            results: list[Any] = getattr(self._manager.hook, hook)(**arguments)
        except ANY_FAULT as error:
            self.fail(f"hook {hook} raised {describe(error)}")
            return None
        return results

    def fail(self, problem: str) -> None:
        """Adds a problem to the report, once, and logs it."""
        with self._lock:
            known = (self.report.error or "").splitlines()
            if problem in known:
                return
            self.report = replace(
                self.report,
                state=PluginState.FAILED,
                error="\n".join([*known, problem]),
                fix=self.report.fix or _ways_out(self.report),
            )
        _warn(self.report, problem)


def load(candidate: Candidate, settings: Settings, *, owner: str) -> LoadedPlugin:
    """Loads one plugin as far as the lists, its metadata and its code allow. Never raises.

    Args:
        candidate: The plugin.
        settings: Whose allow and deny lists count.
        owner: The distribution whose plugin of this name is used.
    """
    report = PluginReport(
        name=candidate.name,
        distribution=candidate.distribution,
        version=candidate.version,
        state=PluginState.LOADED,
    )
    obstacle = _find_obstacle(candidate, settings, owner)
    if obstacle is not None:
        if obstacle.state is not PluginState.DISABLED:
            _warn(report, obstacle.error)
        return LoadedPlugin(replace(report, state=obstacle.state, error=obstacle.error, fix=obstacle.fix))
    if candidate.entry_point is None:
        return _failed(replace(report, fix="reinstall or remove that distribution"), str(candidate.problem))
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    known = ", ".join(sorted(vars(manager.hook)))
    try:
        module = candidate.entry_point.load()
        manager.register(module, name=candidate.name)
    except pluggy.PluginValidationError as error:
        return _failed(report, f"a hook has the wrong signature: {describe(error)}")
    except ANY_FAULT as error:
        return _failed(report, f"import of {candidate.entry_point.value} raised {describe(error)}")
    callers = manager.get_hookcallers(module) or []
    hooks = tuple(sorted(caller.name for caller in callers if caller.has_spec()))
    plugin = LoadedPlugin(replace(report, hooks=hooks), manager)
    for caller in callers:
        if not caller.has_spec() and not all(impl.optionalhook for impl in caller.get_hookimpls()):
            plugin.fail(f"there is no hook {caller.name}; hooks are {known}")
    if not callers:
        plugin.fail(f"it has no function marked with llamatelemetry.plugins.hookimpl; hooks are {known}")
    return plugin


def _find_obstacle(candidate: Candidate, settings: Settings, owner: str) -> Obstacle | None:
    kept_out = _kept_out(candidate.name, settings)
    if kept_out:
        return Obstacle(state=PluginState.DISABLED, error=kept_out)
    if owner != candidate.distribution:
        error = f"{owner} has a plugin of the same name, which is used"
        return Obstacle(state=PluginState.FAILED, error=error, fix=f"pip uninstall {candidate.distribution}")
    return find_obstacle(candidate.distribution, candidate.requires)


def _failed(report: PluginReport, problem: str) -> LoadedPlugin:
    plugin = LoadedPlugin(report)
    plugin.fail(problem)
    return plugin


def _kept_out(name: str, settings: Settings) -> str:
    if name in settings.disabled_plugins:
        return "named by disabled_plugins (LLAMATELEMETRY_DISABLED_PLUGINS)"
    if settings.plugins is not None and name not in settings.plugins:
        return "not among plugins (LLAMATELEMETRY_PLUGINS)"
    return ""


def _ways_out(report: PluginReport) -> str:
    return f"pip install --upgrade {report.distribution}, or set LLAMATELEMETRY_DISABLED_PLUGINS={report.name}"


def _warn(report: PluginReport, problem: str) -> None:
    _logger.warning("plugin %s (%s %s): %s", report.name, report.distribution, report.version, problem)
