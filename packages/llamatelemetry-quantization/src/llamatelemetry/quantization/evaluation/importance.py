"""An importance matrix of a model, measured on a text in real llama.cpp."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llamatelemetry.quantization.evaluation.llama_process import LlamaProcess
from llamatelemetry.quantization.evaluation.logits import DEFAULT_CONTEXT, checked_context, thread_count
from llamatelemetry.quantization.evaluation.texts import CALIBRATION_TEXT, read_text, windows_of
from llamatelemetry.quantization.imatrix import Importance, read_importance
from llamatelemetry.quantization.measuring import ImportanceCollector
from llamatelemetry.quantization.new_file import check_place

__all__ = ["ImportanceProgress", "measure_importance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceProgress:
    """How far it got.

    Attributes:
        done: Windows that the model has seen.
        total: Windows that there are.
    """

    done: int
    total: int


def measure_importance(
    model: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    text: str | os.PathLike[str] | None = None,
    context: int = DEFAULT_CONTEXT,
    windows: int | None = None,
    threads: int | None = None,
    library: str | os.PathLike[str] | None = None,
    on_progress: Callable[[ImportanceProgress], None] | None = None,
) -> Importance:
    """Measures how much each column of each weight matters, and writes it as ``llama-imatrix`` does.

    The model reads the text; the squares of what goes into each weight of its blocks are added up, expert by
    expert where there are some. The file appears when it is whole.

    Args:
        model: A GGUF file, best of F16, BF16 or F32.
        target: The file to write.
        text: A text file in UTF-8, like what the model will be used for; None for one that ships.
        context: Tokens that the model sees at once.
        windows: Pieces of the text to read at most; all of it where None.
        threads: CPU threads to compute with, all there are where None.
        library: A libllama; where None, that of ``LLAMATELEMETRY_LIBLLAMA`` or of an installed package.
        on_progress: Called after each window. What it raises ends the work and is raised here.

    Raises:
        InvalidValueError: An argument cannot be used, or the text is too short.
        ModelFileError: A file cannot be read, loaded or written.
        BackendError: llama.cpp crashed.
        ConfigurationError: The libllama is of a release whose tensors are not known here.
        MissingDependencyError: No libllama is installed.
    """
    check_place(Path(target), reads=(model, text))
    read = read_text(text, CALIBRATION_TEXT)
    collector = ImportanceCollector()
    with closing(
        LlamaProcess(
            Path(model),
            context=checked_context(context),
            threads=thread_count(threads),
            library=library,
            collect=True,
        )
    ) as process:
        process.ask(text=read.content)
        tokens = process.answer()["tokens"]
        facts = process.facts
        cut = windows_of(read, tokens, context=facts["context"], begins_with=facts["begins_with"], most=windows)
        for done, window in enumerate(cut, 1):
            process.ask(tokens=window.tokens, seen=True)
            process.answer()
            if on_progress is not None:
                on_progress(ImportanceProgress(done=done, total=len(cut)))
        process.ask(sums=True)
        while name := (answer := process.answer())["name"]:
            sums = np.empty((answer["matrices"], answer["bytes"] // 8 // answer["matrices"]), np.float64)
            process.read_into(sums.data.cast("B"))
            collector.add_sums(name, sums, answer["counts"])
    written = collector.write(target, dataset=read.name, chunk_size=len(cut[0].tokens))
    return read_importance(written)
