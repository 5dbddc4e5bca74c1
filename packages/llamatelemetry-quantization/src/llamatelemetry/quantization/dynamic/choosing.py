"""Makes a model smaller with a type for each group of tensors, chosen by what each costs the model.

Each type is tried on each group alone, with all else as in the parent, and how far the model then is from the
parent is measured. What is chosen is best as long as those divergences add up, which they do to first order for
small errors that are independent of each other: so works HAWQ-V2 (Z. Dong and others, 2020), there with
second derivatives in place of measured values. The chosen model is measured too, and how far the sum was
off is part of the result; under a budget of quality, what was off is corrected for.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Final

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization.dynamic.budget import Budget
from llamatelemetry.quantization.dynamic.groups import (
    DEFAULT_BANDS,
    DEFAULT_TYPES,
    Group,
    groups_of,
    overrides_for,
)
from llamatelemetry.quantization.dynamic.sizes import mix_size, most_bytes
from llamatelemetry.quantization.dynamic.solver import best_choices, cheapest_choices
from llamatelemetry.quantization.dynamic.trial_cache import TrialCache
from llamatelemetry.quantization.dynamic.trials import Trials
from llamatelemetry.quantization.evaluation.logits import checked_context, thread_count
from llamatelemetry.quantization.evaluation.shared_logits import SharedLogits
from llamatelemetry.quantization.evaluation.texts import CALIBRATION_TEXT, read_text
from llamatelemetry.quantization.file_types import FILE_TYPES
from llamatelemetry.quantization.ggml import load_ggml
from llamatelemetry.quantization.gguf_reading import open_gguf, read_layout
from llamatelemetry.quantization.imatrix import Importance, read_importance
from llamatelemetry.quantization.new_file import check_place
from llamatelemetry.quantization.output_plan import model_of
from llamatelemetry.quantization.quantizing import QuantizedModel, quantize

__all__ = ["ChosenGroup", "DynamicModel", "DynamicProgress", "quantize_dynamic"]

DEFAULT_CONTEXT: Final = 256
DEFAULT_WINDOWS: Final = 4
_CORRECTIONS: Final = 6
"""Models that are made at most to meet a budget of quality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicProgress:
    """How far it got.

    Attributes:
        done: Trials that are done.
        total: Trials that there are.
        group: The group that was last tried.
        type: The type it had.
        divergence: What that cost, in nats a token.
    """

    done: int
    total: int
    group: str
    type: str
    divergence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenGroup:
    """What one group got.

    Attributes:
        name: The group.
        type: The type that was chosen.
        given: The types of its tensors; another one where rows do not fit.
        size_bytes: Bytes that it takes.
        divergence: What that type cost when no other group was quantized, in nats a token.
    """

    name: str
    type: str
    given: tuple[str, ...]
    size_bytes: int
    divergence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicModel:
    """What was made, and why so.

    Attributes:
        model: The file.
        groups: What each group got.
        predicted: Divergence from the parent if those of the groups add up, in nats a token.
        measured: What it is, on the text that was measured on.
        trials: Models that were made and run for it; what was known already is not among them.
    """

    model: QuantizedModel
    groups: tuple[ChosenGroup, ...]
    predicted: float
    measured: float
    trials: int


def quantize_dynamic(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    budget: Budget,
    types: Sequence[str] = DEFAULT_TYPES,
    bands: int = DEFAULT_BANDS,
    text: str | os.PathLike[str] | None = None,
    context: int = DEFAULT_CONTEXT,
    windows: int = DEFAULT_WINDOWS,
    imatrix: str | os.PathLike[str] | Importance | None = None,
    threads: int | None = None,
    library: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    shared: SharedLogits | None = None,
    metadata: Mapping[str, str | int] = MappingProxyType({}),
    on_progress: Callable[[DynamicProgress], None] | None = None,
) -> DynamicModel:
    """Writes the smaller model that is closest to its parent under a budget.

    There are about six trials for each role and band. Each makes a model of the size of the source, and runs it.

    Args:
        source: A GGUF file of F32, F16 or BF16.
        target: The file to write.
        budget: How large it may be, or how far from its parent.
        types: Tensor types that may be chosen.
        bands: Into how many parts the blocks are cut: more are better, and each costs as many trials.
        text: The text to measure on, in UTF-8; None for one that ships with the package.
        context: Tokens in a window.
        windows: Windows to measure at most.
        imatrix: An importance matrix, or its file; for the trials and for what is made.
        threads: CPU threads, all there are where None.
        library: A libllama; where None, that of ``LLAMATELEMETRY_LIBLLAMA`` or of an installed package.
        cache: A JSON file that keeps what was measured; what is in it is not measured again.
        shared: Where logits of the source are kept; beside the target while this works where None.
        metadata: Keys to add to the file.
        on_progress: Called after each trial. What it raises ends the work and is raised here.

    Raises:
        InvalidValueError: An argument cannot be used, or the budget cannot be met.
        ModelFileError: A file cannot be read, is damaged, or cannot be written.
        BackendError: llama.cpp crashed, or computed what is no number.
        MissingDependencyError: No libllama is installed.
    """
    source, target = Path(source), Path(target)
    check_place(target, reads=(source, text, imatrix, cache))
    crew = thread_count(threads)
    importance = imatrix if imatrix is None or isinstance(imatrix, Importance) else read_importance(imatrix)
    ggml = load_ggml()
    with open_gguf(source) as file:
        layout = read_layout(source, file, ggml.types_by_number)
    if any(tensor.type.quantized for tensor in layout.tensors):
        raise InvalidValueError("source", str(source), "it is quantized already: give the F32, F16 or BF16 file")
    model = model_of(layout)
    groups = groups_of(layout, model, ggml.types, wanted=types, bands=bands)
    smallest = {name: group.options[0].type for group in groups for name in group.tensors}
    least = mix_size(layout, model, ggml.types, overrides=overrides_for(smallest), metadata=metadata)
    most = most_bytes(budget, layout, model, ggml.types)
    if most is not None and most < least:
        raise InvalidValueError("budget", most, f"the smallest of these types take {least} bytes: allow more")
    with TemporaryDirectory(dir=target.absolute().parent, prefix=".trials-") as folder:
        trials = Trials(
            layout,
            text=read_text(text, CALIBRATION_TEXT),
            context=checked_context(context),
            windows=windows,
            importance=importance,
            threads=crew,
            library=library,
            cache=TrialCache(None if cache is None else Path(cache)),
            folder=Path(folder),
            shared=shared,
        )
        costs = _costs(groups, trials, on_progress)
        if most is not None:
            # Each tensor may begin after up to an alignment of nothing.
            spare = most - least - layout.alignment * len(layout.tensors)
            room = max(spare, 0) + sum(group.options[0].size_bytes for group in groups)
            chosen = best_choices(costs, room) or [0] * len(groups)
            measured = trials.divergence(_types(groups, chosen))
        else:
            chosen, measured = _within(budget.max_divergence or 0.0, groups, costs, trials)
        made = quantize(
            source,
            target,
            file_type=_mostly(groups, chosen),
            imatrix=importance,
            threads=threads,
            overrides=overrides_for(_types(groups, chosen)),
            metadata=metadata,
        )
    found = tuple(
        ChosenGroup(
            name=group.name,
            type=group.options[at].type,
            given=group.options[at].given,
            size_bytes=group.options[at].size_bytes,
            divergence=cost[at][1],
        )
        for group, at, cost in zip(groups, chosen, costs, strict=True)
    )
    predicted = sum(group.divergence for group in found)
    return DynamicModel(model=made, groups=found, predicted=predicted, measured=measured, trials=trials.ran)


def _costs(
    groups: Sequence[Group], trials: Trials, on_progress: Callable[[DynamicProgress], None] | None
) -> list[list[tuple[int, float]]]:
    """Of each group, of each option, its bytes and what it costs."""
    total = sum(len(group.options) for group in groups)
    done = 0
    costs = []
    for group in groups:
        found = []
        for option in group.options:
            divergence = trials.divergence(dict.fromkeys(group.tensors, option.type))
            found.append((option.size_bytes, divergence))
            done += 1
            if on_progress is not None:
                on_progress(
                    DynamicProgress(done=done, total=total, group=group.name, type=option.type, divergence=divergence)
                )
        costs.append(found)
    return costs


def _types(groups: Sequence[Group], chosen: Sequence[int]) -> dict[str, str]:
    return {name: group.options[at].type for group, at in zip(groups, chosen, strict=True) for name in group.tensors}


def _within(
    most: float, groups: Sequence[Group], costs: list[list[tuple[int, float]]], trials: Trials
) -> tuple[list[int], float]:
    """The smallest choice that was found to be within, each try corrected for what the one before was off."""
    aimed, best = most, None
    for _ in range(_CORRECTIONS):
        chosen = cheapest_choices(costs, aimed)
        if chosen is None:
            break
        measured = trials.divergence(_types(groups, chosen))
        size = sum(cost[at][0] for cost, at in zip(costs, chosen, strict=True))
        if measured <= most and (best is None or size < best[0]):
            best = size, chosen, measured
        predicted = sum(cost[at][1] for cost, at in zip(costs, chosen, strict=True))
        aim = predicted * most / measured if measured > 0 else aimed
        if abs(aim - aimed) < 0.01 * aimed:
            # It would be the same again, or as good as that; past the limit, a little less is asked for.
            if measured <= most:
                break
            aim = 0.98 * aimed
        aimed = aim
    if best is None:
        largest = [len(group.options) - 1 for group in groups]
        reached = trials.divergence(_types(groups, largest))
        if reached > most:
            raise InvalidValueError(
                "max_divergence", most, f"the largest of these types reach {reached:.3g}: allow more, or larger types"
            )
        return largest, reached
    return best[1], best[2]


def _mostly(groups: Sequence[Group], chosen: Sequence[int]) -> str:
    """The file type that says best what the model mostly is of; no reader depends on it."""
    taken: Counter[str] = Counter()
    for group, at in zip(groups, chosen, strict=True):
        for kind in group.options[at].given:
            taken[kind] += group.options[at].size_bytes // len(group.tensors)
    most = taken.most_common(1)[0][0]
    return next((name for name, kind in FILE_TYPES.items() if kind.base == most), "Q8_0")
