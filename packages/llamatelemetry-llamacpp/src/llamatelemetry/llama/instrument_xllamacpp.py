"""xllamacpp, traced without a change to the application: the server's functions that are called in this process.

Its HTTP routes are left alone: whoever asks over HTTP is another process's client, or has been traced as one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final

from llamatelemetry.backends.protocol import ModelInfo
from llamatelemetry.backends.request import Operation
from llamatelemetry.llama.instrumentor import LibraryInstrumentor
from llamatelemetry.llama.observed_models import UNKNOWN, observed_model
from llamatelemetry.llama.xllamacpp_call import ServerCall
from llamatelemetry.otel.guard import quietly
from llamatelemetry.otel.instrumentation import InstrumentationSink
from llamatelemetry.otel.patches import Patches
from llamatelemetry.otel.recorder import inside_inference

_HANDLED: Final[Mapping[str, Operation]] = {
    "handle_chat_completions": "chat",
    "handle_completions": "text_completion",
    "handle_embeddings": "embeddings",
}
_ARGUMENTS: Final = ("prompt", "callback")


class XllamacppInstrumentor(LibraryInstrumentor):
    """Traces the calls of every ``xllamacpp.Server``.

    ``instrument()`` takes ``tracer_provider``, ``meter_provider`` and ``logger_provider``; see
    :class:`~llamatelemetry.otel.instrumentation.InstrumentationSink` for what happens without them.
    """

    library = "xllamacpp"
    requirement = "xllamacpp >= 2026.10, < 2027"

    def patch(self, library: ModuleType, patches: Patches, sink: InstrumentationSink) -> None:
        """Patches the class. Of servers that are there already, the model is known after their first answer."""
        observer = _Observer(sink)
        for name, operation in _HANDLED.items():
            patches.around(library.Server, name, observer.handling(operation))
        patches.add(library.Server, "__init__", observer.constructor())


class _Observer:
    """What stands around the functions of ``Server``."""

    def __init__(self, sink: InstrumentationSink) -> None:
        self._sink = sink
        # By address, which two servers never have at a time: a Server cannot be referred to weakly.
        self._models: dict[str, ModelInfo] = {}

    def constructor(self) -> Callable[..., None]:
        """For a class that has none of its own: it is complete when it is created, before this is called."""

        def __init__(server: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it becomes one
            self._note(server, args[0] if args else kwargs.get("common_params"))

        return __init__

    def handling(self, operation: Operation) -> Callable[..., Any]:
        """Around a ``handle_*``."""

        def around(run: Callable[..., Any], server: Any, *args: Any, **kwargs: Any) -> Any:
            given = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
            body = self._body(given.get("prompt"))
            call = None if body is None else self._begin(operation, server, body)
            if call is None or body is None:
                return run(server, *args, **kwargs)
            if given.get("callback") is not None:
                listening = call.listening(given["callback"])
                if "callback" in kwargs:
                    kwargs["callback"] = listening
                else:
                    args = (args[0], listening, *args[2:])
            # Its span is not made the current one: nothing is traced inside of the library, and what
            # the callback does is the application's, another inference perhaps.
            try:
                answer = run(server, *args, **kwargs)
            except BaseException as error:
                call.failed(error)
                raise
            call.ended(answer)
            self._learn(server, body, call)
            return answer

        return around

    @quietly
    def _body(self, prompt: Any) -> Mapping[str, Any] | None:
        """The question, read; None for what is none."""
        if isinstance(prompt, str | bytes):
            try:
                prompt = json.loads(prompt)
            except ValueError:
                prompt = {}
        return prompt if isinstance(prompt, Mapping) else None

    @quietly
    def _begin(self, operation: Operation, server: Any, body: Mapping[str, Any]) -> ServerCall | None:
        """Begins to observe; None inside of an inference that is observed."""
        if inside_inference():
            return None
        return ServerCall(
            operation=operation,
            body=body,
            model=self._models.get(server.listening_address, UNKNOWN),
            sink=self._sink,
            keeps_content=self._sink.captures_content,
        )

    @quietly
    def _note(self, server: Any, params: Any) -> None:
        """Notes what model a server has been made with."""
        if params is None:
            # A subclass took it for itself; the model is known after the first answer, and not from an earlier server.
            self._models.pop(server.listening_address, None)
            return
        alias = min(params.model_alias, default=None)
        self._models[server.listening_address] = observed_model(
            params.model.path, name=alias, embeddings=params.embedding
        )

    @quietly
    def _learn(self, server: Any, body: Mapping[str, Any], call: ServerCall) -> None:
        """Notes what model a server says that it has, if nobody saw it being made."""
        named = call.answered_by
        # It calls its model whatever it was called in the question.
        if named is None or body.get("model") or server.listening_address in self._models:
            return
        self._models[server.listening_address] = observed_model(named)
