"""Observes every ``generate`` of transformers: the common one, and those that models have of their own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Final

from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from llamatelemetry.otel.guard import quietly
from llamatelemetry.otel.instrumentation import InstrumentationSink
from llamatelemetry.otel.patches import Patches
from llamatelemetry.otel.recorder import inside_inference
from llamatelemetry.transformers.asked import ASKED
from llamatelemetry.transformers.generation import Generation

GENERATION: Final = "transformers.generation.utils"
"""The module to patch."""

_PREVIEW: Final = "is_done_candidate"
"""What assisted decoding calls the criteria's answer about its candidates, where it asks for one."""

_running: Final[ContextVar[tuple[Generation, int] | None]] = ContextVar("llamatelemetry_generation", default=None)
"""The generation that this context works for, and how many calls of ``generate`` further in it is."""


def is_untouched() -> bool:
    """Whether what is called now is to be called as if nothing were instrumented."""
    return inside_inference() or not is_instrumentation_enabled()


class GenerateObserver:
    """Makes a generation of every call.

    Args:
        sink: Takes the records.
        patches: Holds what is put in place.
    """

    def __init__(self, sink: InstrumentationSink, patches: Patches) -> None:
        self._sink = sink
        self._patches = patches
        self._previews = False

    @quietly
    def patch(self, module: ModuleType) -> None:
        """Patches :data:`GENERATION` once it is imported."""
        mixin = module.GenerationMixin
        assisted = inspect.unwrap(mixin._assisted_decoding)  # noqa: SLF001 - nothing public tells
        self._previews = _PREVIEW in assisted.__code__.co_varnames
        self._patches.around(mixin, "_get_stopping_criteria", self._get_stopping_criteria)
        self._observe(mixin)
        for owner in _subclasses(mixin):
            self._observe(owner)

        def init_subclass(owner: type[Any], /, **kwargs: Any) -> None:
            super(mixin, owner).__init_subclass__(**kwargs)
            self._observe(owner)

        self._patches.add(mixin, "__init_subclass__", classmethod(init_subclass))

    @quietly
    def _observe(self, owner: type) -> None:
        own = vars(owner).get("generate")
        if not callable(own):
            return
        names = [
            name
            for name, parameter in inspect.signature(own).parameters.items()
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ][1:]

        def generate(original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
            running = _running.get()
            if running is not None:
                return _further_in(running, original, model, *args, **kwargs)
            # With a paged cache the requests go to a continuous batching manager, which is observed itself.
            if is_untouched() or kwargs.get("cache_implementation") == "paged":
                return original(model, *args, **kwargs)
            generation = self._begin(model, {**dict(zip(names, args, strict=False)), **kwargs})
            if generation is None:
                return original(model, *args, **kwargs)
            return _observed(generation, original, model, *args, **kwargs)

        self._patches.around(owner, "generate", generate)

    @quietly
    def _begin(self, model: Any, arguments: dict[str, Any]) -> Generation:
        return Generation(model, arguments, ASKED.get(), self._sink)

    def _get_stopping_criteria(self, original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
        criteria = original(model, *args, **kwargs)
        running = _running.get()
        if running is None:
            return criteria
        watched = self._watched(running, criteria, kwargs.get("generation_config", args[0] if args else None))
        return criteria if watched is None else watched

    @quietly
    def _watched(self, running: tuple[Generation, int], criteria: Any, config: Any) -> Any:
        from llamatelemetry.transformers.observed_criteria import observed

        generation, depth = running
        steps = generation.loop(depth, config, previews=self._previews)
        return None if steps is None else observed(criteria, steps)


def _observed(generation: Generation, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    token = _running.set((generation, 0))
    try:
        with generation.active():
            result = original(*args, **kwargs)
    except BaseException as error:
        _end(generation, error=error)
        raise
    finally:
        _running.reset(token)
    _end(generation, result)
    return result


def _further_in(running: tuple[Generation, int], original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    generation, depth = running
    token = _running.set((generation, depth + 1))
    try:
        result = original(*args, **kwargs)
    finally:
        _running.reset(token)
    generation.came_back(depth + 1, result)
    return result


@quietly
def _end(generation: Generation, result: Any = None, error: BaseException | None = None) -> None:
    generation.end(result, error)


def _subclasses(owner: Any) -> Iterator[type]:
    for subclass in type.__subclasses__(owner):
        yield subclass
        yield from _subclasses(subclass)
