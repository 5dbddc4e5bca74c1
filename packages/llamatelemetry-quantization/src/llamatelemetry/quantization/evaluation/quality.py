"""How good a model is, and how much worse than its parent: perplexity, divergence, agreement.

Definitions: perplexity is the exponential of the mean loss of the tokens that are scored. The divergence is
Kullback's and Leibler's, from the parent's distribution to the model's, over the whole vocabulary, as
llama-perplexity computes it with ``--kl-divergence``; windows are its too.
Intervals are those of ``intervals.py``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization.evaluation.intervals import Estimate, mean_with_interval
from llamatelemetry.quantization.evaluation.logits import DEFAULT_CONTEXT, LlamaLogits, LogitsSource, thread_count
from llamatelemetry.quantization.evaluation.scores import PairScores, score_pair, score_tokens
from llamatelemetry.quantization.evaluation.shared_logits import SharedLogits
from llamatelemetry.quantization.evaluation.texts import Text, Window, read_text, windows_of

_MOST_LOSS: Final = 700.0

__all__ = ["Comparison", "Quality", "QualityProgress", "compare_sources", "measure_quality"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityProgress:
    """How far it got.

    Attributes:
        done: Windows that are measured.
        total: Windows that there are.
        loss: Mean loss of the last one, in nats.
        divergence: Mean divergence on it, in nats; None without a parent.
    """

    done: int
    total: int
    loss: float
    divergence: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A model beside its parent.

    Attributes:
        parent_perplexity: Of the parent.
        perplexity_ratio: The model's over the parent's, compared window by window.
        divergence: Mean Kullback-Leibler divergence from the parent, in nats a token; 0 for the same model.
        divergence_median: Half of the tokens have less.
        divergence_p99: One in a hundred tokens has more.
        divergence_max: The most of any token.
        agreement: Share of tokens where both find the same token the most likely.
    """

    parent_perplexity: Estimate
    perplexity_ratio: Estimate
    divergence: Estimate
    divergence_median: float
    divergence_p99: float
    divergence_max: float
    agreement: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What was measured.

    Attributes:
        text: The text.
        context: Tokens in a window.
        windows: Windows that were measured.
        tokens: Tokens that were scored.
        perplexity: The model's.
        comparison: The model beside its parent, if one was given.
    """

    text: Text
    context: int
    windows: int
    tokens: int
    perplexity: Estimate
    comparison: Comparison | None


def measure_quality(
    model: str | os.PathLike[str],
    parent: str | os.PathLike[str] | None = None,
    *,
    text: str | os.PathLike[str] | None = None,
    context: int = DEFAULT_CONTEXT,
    windows: int | None = None,
    threads: int | None = None,
    library: str | os.PathLike[str] | None = None,
    shared: SharedLogits | None = None,
    on_progress: Callable[[QualityProgress], None] | None = None,
) -> Quality:
    """Measures a model on a text, in real llama.cpp.

    Each model runs in a child process; both compute at the same time. Logits are held of some dozen tokens. With
    ``shared``, those of the parent are computed once for all models that are measured so; the figures are the same.

    Args:
        model: A GGUF file.
        parent: The model it was made of, best of F16, BF16 or F32, to compare it with.
        text: A text file in UTF-8; None for the one that ships with the package.
        context: Tokens in a window; fewer where a model was trained for fewer.
        windows: Windows to measure at most; all of the text where None.
        threads: CPU threads for both models together, all there are where None.
        library: A libllama; where None, that of ``LLAMATELEMETRY_LIBLLAMA`` or of an installed package.
        shared: Where logits of the parent are kept; those of the model, where it is given none.
        on_progress: Called after each window. What it raises ends the work and is raised here.

    Raises:
        InvalidValueError: An argument cannot be used, the text is too short, or the two have other vocabularies.
        ModelFileError: A file cannot be read, or llama.cpp cannot load it.
        BackendError: llama.cpp crashed, or computed what is no number.
        MissingDependencyError: No libllama is installed.
    """
    read = read_text(text)
    *models, compared = [Path(path) for path in (model, parent) if path is not None]
    count = thread_count(threads)
    share = max(1, count // (len(models) + 1))
    with ExitStack() as stack:

        def opened(path: Path, threads: int) -> LogitsSource:
            return stack.enter_context(LlamaLogits(path, context=context, threads=threads, library=library))

        sources: list[LogitsSource]
        if shared is None:
            sources = [opened(path, share) for path in (*models, compared)]
        else:
            kept = stack.enter_context(
                shared.source(compared, text=read, context=context, threads=share, library=library)
            )
            sources = [*(opened(path, count if kept.known else share) for path in models), kept]
        return _measured(*sources, called=str(compared), text=read, windows=windows, on_progress=on_progress)


def compare_sources(
    source: LogitsSource,
    parent: LogitsSource | None = None,
    *,
    text: Text,
    windows: int | None = None,
    on_progress: Callable[[QualityProgress], None] | None = None,
) -> Quality:
    """As :func:`measure_quality`, of whatever gives logits.

    Raises:
        InvalidValueError: The text is too short, or the two have other vocabularies.
        BackendError: A model could not compute, or computed what is no number.
    """
    called = "" if parent is None else f"a model of {parent.vocabulary} tokens"
    return _measured(source, parent, called=called, text=text, windows=windows, on_progress=on_progress)


def _measured(
    source: LogitsSource,
    parent: LogitsSource | None = None,
    *,
    called: str,
    text: Text,
    windows: int | None,
    on_progress: Callable[[QualityProgress], None] | None,
) -> Quality:
    """As :func:`compare_sources`, of a parent that errors call as its caller does."""
    context = source.context if parent is None else min(source.context, parent.context)
    tokens = source.tokenize(text.content)
    if parent is not None and (parent.vocabulary != source.vocabulary or parent.tokenize(text.content) != tokens):
        raise InvalidValueError("parent", called, "give the model it was made of: its tokens are others")
    cut = windows_of(text, tokens, context=context, begins_with=source.begins_with, most=windows)
    tell = on_progress or (lambda _progress: None)
    if parent is None:
        losses = []
        for window in cut:
            losses.append(_mean(score_tokens(source.logits(window.tokens, window.first), window.targets)))
            tell(QualityProgress(done=len(losses), total=len(cut), loss=losses[-1], divergence=None))
        comparison = None
    else:
        pairs = []
        for pair in pair_scores(source, parent, cut):
            pairs.append(pair)
            loss, divergence = _mean(pair.losses), _mean(pair.divergences)
            tell(QualityProgress(done=len(pairs), total=len(cut), loss=loss, divergence=divergence))
        losses = [_mean(pair.losses) for pair in pairs]
        comparison = _compared(pairs)
    return Quality(
        text=text,
        context=context,
        windows=len(cut),
        tokens=sum(len(window.targets) for window in cut),
        perplexity=_perplexity(losses),
        comparison=comparison,
    )


def pair_scores(source: LogitsSource, parent: LogitsSource, windows: Sequence[Window]) -> Iterator[PairScores]:
    """Both models on each window, computing at the same time."""
    for window in windows:
        # The parent is the slower one, and has started by the time the other does.
        parent_blocks = parent.logits(window.tokens, window.first)
        yield score_pair(source.logits(window.tokens, window.first), parent_blocks, window.targets)


def _compared(pairs: Sequence[PairScores]) -> Comparison:
    divergences = np.concatenate([pair.divergences for pair in pairs])
    median, most_but_few = np.quantile(divergences, (0.5, 0.99))
    lost = mean_with_interval([_mean(pair.losses - pair.parent_losses) for pair in pairs])
    return Comparison(
        parent_perplexity=_perplexity([_mean(pair.parent_losses) for pair in pairs]),
        perplexity_ratio=lost.through(_exponential),
        divergence=mean_with_interval([_mean(pair.divergences) for pair in pairs]).within(0, math.inf),
        divergence_median=float(median),
        divergence_p99=float(most_but_few),
        divergence_max=float(divergences.max()),
        agreement=mean_with_interval([_mean(pair.agreements) for pair in pairs]).within(0, 1),
    )


def _perplexity(losses: Sequence[float]) -> Estimate:
    return mean_with_interval(losses).through(_exponential)


def _exponential(loss: float) -> float:
    """That, and no overflow where an interval of two windows is absurdly wide."""
    return math.exp(min(loss, _MOST_LOSS))


def _mean(values: npt.NDArray[np.float64] | npt.NDArray[np.bool_]) -> float:
    return float(values.mean(dtype=np.float64))
