"""The child process that a model runs in: llama.cpp aborts on some bad input, and takes down whoever loaded it.

Run: python -m llamatelemetry.quantization.evaluation.llama_child PARENT_PID OPTIONS

Options are a JSON object. Requests come as lines of JSON, answers go out as lines of JSON, each followed by as
many bytes as its ``bytes`` says. The child ends when its input does, or when its parent is gone.
"""

from __future__ import annotations

import json
import os
import queue
import select
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from llamatelemetry.quantization.evaluation.llama_api import LlamaLibrary, LlamaModel, LlamaProblem

__all__ = ["Answer", "main"]

_POLL_S: Final = 1.0
_READ_BYTES: Final = 1 << 16

Answer = Callable[..., None]


def _requests(parent: int) -> queue.SimpleQueue[dict[str, Any]]:
    """Requests as they come. A thread of its own waits for them, so that the end is noticed amid work."""
    found: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        rest = b""
        while True:
            ready, _, _ = select.select([0], [], [], _POLL_S)
            # A process that the parent forked may keep the pipe open.
            if os.getppid() != parent:
                os._exit(0)
            if not ready:
                continue
            piece = os.read(0, _READ_BYTES)
            if not piece:
                os._exit(0)
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                found.put(json.loads(line))

    threading.Thread(target=read, name="requests", daemon=True).start()
    return found


def _answers() -> Answer:
    """Writes answers to what was standard output; what a library prints there goes to the log instead."""
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def write(data: memoryview | bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[output.write(view) :]

    def answer(payload: memoryview | bytes = b"", **facts: Any) -> None:
        write(json.dumps({**facts, "bytes": len(payload)}).encode() + b"\n")
        if payload:
            write(payload)

    return answer


def _log(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _serve(options: dict[str, Any], requests: queue.SimpleQueue[dict[str, Any]], answer: Answer) -> None:
    library = LlamaLibrary(Path(options["library"]), _log)
    watch = None
    if options["collect"]:
        from llamatelemetry.quantization.evaluation.llama_activations import ActivationSums

        watch = ActivationSums(library.c)
    model = _loaded(library, options, watch, answer)
    if model is None:
        return
    answer(vocabulary=model.vocabulary, begins_with=model.begins_with, context=model.context)
    while True:
        match requests.get():
            case {"text": text}:
                answer(tokens=model.tokenize(text.encode()))
            case {"tokens": tokens, "seen": True}:
                # With all logits, though nobody wants them: else the last block computes one token of them.
                model.decode(tokens, 0, lambda _numbers, _rows: None)
                answer()
            case {"tokens": tokens, "first": first}:
                model.decode(tokens, first, lambda numbers, rows: answer(numbers, rows=rows))
                answer(rows=0)
            case {"sums": True} if watch is not None:
                for name, matrices, counts, sums in watch.take():
                    answer(sums, name=name, matrices=matrices, counts=counts)
                answer(name="")


def _loaded(library: LlamaLibrary, options: dict[str, Any], watch: Any, answer: Answer) -> LlamaModel | None:
    try:
        return LlamaModel(
            library,
            Path(options["model"]),
            context=options["context"],
            batch=options["batch"],
            threads=options["threads"],
            watcher=None if watch is None else watch.callback,
        )
    except LlamaProblem as problem:
        answer(problem=str(problem), about="model")
        return None


def main(arguments: list[str]) -> None:
    """Serves one model until nobody asks any more."""
    answer = _answers()
    requests = _requests(int(arguments[0]))
    try:
        _serve(json.loads(arguments[1]), requests, answer)
    except LlamaProblem as problem:
        answer(problem=str(problem), about="library")


if __name__ == "__main__":
    main(sys.argv[1:])
    # What libraries would do at the end is of no use to anybody, and some crash doing it.
    sys.stderr.flush()
    os._exit(0)
