"""Finding, checking and loading what other distributions register.

A plugin is a module named by an entry point of the group ``llamatelemetry``. It marks functions
with :data:`hookimpl`; which functions exist is said in :mod:`llamatelemetry.plugins.hookspecs`.
The rest of core asks :func:`load_plugins` and never pluggy.
"""

from llamatelemetry.plugins.check import Check, CheckState
from llamatelemetry.plugins.hookspecs import hookimpl
from llamatelemetry.plugins.host import Plugins, load_plugins
from llamatelemetry.plugins.registry import Registration, Registry
from llamatelemetry.plugins.report import PluginReport, PluginState

__all__ = [
    "Check",
    "CheckState",
    "PluginReport",
    "PluginState",
    "Plugins",
    "Registration",
    "Registry",
    "hookimpl",
    "load_plugins",
]
