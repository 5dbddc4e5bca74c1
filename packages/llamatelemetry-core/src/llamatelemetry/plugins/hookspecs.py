"""What a plugin can do: implement any of these functions, marked with :data:`hookimpl`.

A plugin is a module named by an entry point of the group ``llamatelemetry``::

    [project.entry-points.llamatelemetry]
    mine = "my_package.plugin"

    # my_package/plugin.py
    from llamatelemetry.plugins import hookimpl

    @hookimpl
    def register_backends(registry):
        registry.add("mine", "my_package.backend:MyBackend")

The module is imported whenever plugins are loaded, so it should import nothing heavy; targets are
strings for that reason. An implementation may leave out arguments it does not need. One that raises
is shown in the plugin's report and stops nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pluggy

from llamatelemetry.config import Settings
from llamatelemetry.plugins.registry import Registry

PROJECT: Final = "llamatelemetry"
"""Name of the pluggy project and of the entry-point group."""

hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin as the implementation of the hook of the same name."""

ResourceValue = str | bool | int | float | list[str] | tuple[str, ...]
"""What a resource attribute can hold."""


@hookspec
def register_backends(registry: Registry) -> None:
    """Registers backends: ``registry.add(name, "module:Class")``.

    The class follows :class:`llamatelemetry.backends.Backend`. ``InferenceEngine(name, **arguments)``
    calls it with the arguments.
    """


@hookspec
def register_enrichers(registry: Registry) -> None:
    """Registers span enrichers: ``registry.add(name, "module:Class")``.

    The class takes no arguments and follows :class:`llamatelemetry.inference.sink.SpanEnricher`.
    """


@hookspec
def register_pipeline_stages(registry: Registry) -> None:
    """Registers stages of pipelines: ``registry.add(name, "module:Class", summary="One line.")``.

    The class follows :class:`llamatelemetry.pipeline.stage.Stage` and has the same ``name``. It is called with
    the parameters that a pipeline's file gives it.
    """


@hookspec
def register_commands(group: Registry) -> None:
    """Registers verbs of the command line: ``group.add(name, "module:command", summary="One line.")``.

    The target is a click command. ``summary`` is what ``llamatelemetry --help`` shows without importing it.
    """


@hookspec
def register_checks(registry: Registry) -> None:
    """Registers what ``llamatelemetry doctor`` runs: ``registry.add(name, "module:function")``.

    The function takes no arguments and returns a list of :class:`llamatelemetry.plugins.Check`.
    """


@hookspec
def register_model_readers(registry: Registry) -> None:
    """Registers readers of model formats: ``registry.add(name, "module:function")``.

    The function takes a ``pathlib.Path`` and returns a
    :class:`llamatelemetry.distributed.shape.ModelShape`, or None for what is not its format. It raises
    :class:`llamatelemetry.errors.ModelFileError` for a damaged file of its format.
    """


@hookspec
def detect_resource(settings: Settings) -> Mapping[str, ResourceValue] | None:
    """Returns resource attributes of where the process runs; None for nothing to say."""


@hookspec
def configure(settings: Settings) -> Settings | None:
    """Returns amended settings; None leaves them as they are.

    Plugins are asked in order of their names, each with what the one before returned.
    """
