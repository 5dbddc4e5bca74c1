"""Merges an adapter into its base model: each weight becomes ``weight + scale · B · A``.

It is PEFT that merges, whoever trained. Each layer is added up in float32 and rounded once to what the base model
has, so that memory is that of the base model and one layer.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import InvalidValueError, ModelFileError
from llamatelemetry.unsloth.adapter import PREFIX, Adapter, read_adapter
from llamatelemetry.unsloth.checkpoint import check_mergeable, copy_tokenizer
from llamatelemetry.unsloth.failures import explained_loading, explained_out_of_memory, first_line
from llamatelemetry.unsloth.quiet import without_bars, without_prints
from llamatelemetry.unsloth.runtime import Libraries, import_runtime
from llamatelemetry.unsloth.whole_folder import check_free, whole_folder

__all__ = ["DTYPES", "MergedModel", "merge_adapter"]

DTYPES: Final = ("auto", "bfloat16", "float16", "float32")
"""What a merged model's weights can be; ``auto`` is what the base model's are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedModel:
    """A merged model.

    Attributes:
        path: Its folder: a checkpoint like the base model's.
        adapter: What was merged into it.
        dtype: What its weights are.
        parameters: How many it has.
    """

    path: Path
    adapter: Adapter
    dtype: str
    parameters: int


def merge_adapter(
    base: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> MergedModel:
    """Merges an adapter into its base model, which runs as any other then.

    Args:
        base: Folder of the base model in 16 bits or more.
        adapter: Folder of the adapter.
        folder: Where the merged model goes; it appears when it is whole. The tokenizer is the base model's, byte for
            byte.
        dtype: One of :data:`DTYPES`.
        on_progress: Told of layers: how many are merged, of how many.

    Raises:
        InvalidValueError: There is no such dtype, or something is at the place of the folder.
        MissingDependencyError: PEFT, transformers or torch is not installed; carries the command that installs them.
        QuantizedBaseError: The base model is quantized; says what to give instead.
        ModelFileError: The base model or the adapter cannot be read, or they do not belong together.
        OutOfMemoryError: It does not fit.
    """
    if dtype not in DTYPES:
        raise InvalidValueError("dtype", dtype, f"give one of {', '.join(DTYPES)}")
    base, folder = Path(base), Path(folder)
    check_free(folder)
    check_mergeable(base)
    found = read_adapter(adapter)
    runtime = import_runtime("peft", "merging an adapter")
    with without_prints(), without_bars(runtime.transformers), explained_loading(base):
        wanted = dtype if dtype == "auto" else getattr(runtime.torch, dtype)
        model = runtime.transformers.AutoModelForCausalLM.from_pretrained(base, dtype=wanted, local_files_only=True)
    _check_fit(found, model)
    with without_prints(), explained_loading(found.path):
        wrapped = runtime.peft.PeftModel.from_pretrained(model, str(found.path))
    merged = _merged(runtime, wrapped, found, on_progress)
    with whole_folder(folder) as partial, without_prints(), without_bars(runtime.transformers):
        merged.save_pretrained(partial)
        copy_tokenizer(base, partial)
    return MergedModel(
        path=folder,
        adapter=found,
        dtype=str(merged.dtype).removeprefix("torch."),
        parameters=int(merged.num_parameters()),
    )


def _check_fit(adapter: Adapter, model: Any) -> None:
    """Holds an adapter to be of this model, of which PEFT would pass over what it does not find."""
    there = {name for name, _ in model.named_modules()}
    if missing := [name for name in adapter.layers if name not in there]:
        of = adapter.base_model or "another model"
        raise ModelFileError(adapter.path, f"has weights for {missing[0]}, which this model has not: it is of {of}")


def _merged(runtime: Libraries, wrapped: Any, adapter: Adapter, on_progress: Callable[[int, int], None] | None) -> Any:
    kind = runtime.peft.tuners.tuners_utils.BaseTunerLayer
    layers = {name.removeprefix(PREFIX): each for name, each in wrapped.named_modules() if isinstance(each, kind)}
    if left := [name for name in adapter.layers if name not in layers]:
        told = f"has weights for {left[0]}, which its own configuration has not among its targets"
        raise ModelFileError(adapter.path, f"{told}. Fetch or train it again")
    with explained_out_of_memory("while an adapter was merged", "free what else holds memory"):
        for number, layer in enumerate(layers.values(), start=1):
            _merge_layer(layer, adapter)
            if on_progress is not None:
                on_progress(number, len(layers))
    with warnings.catch_warnings():
        # What is left is to take the adapter's layers off, and PEFT says that of each.
        warnings.filterwarnings("ignore", message="All adapters are already merged")
        return wrapped.merge_and_unload()


def _merge_layer(layer: Any, adapter: Adapter) -> None:
    weight = layer.get_base_layer().weight
    stored = weight.dtype
    weight.data = weight.data.float()
    try:
        layer.merge(safe_merge=True)
    except ValueError as error:
        reason = f"cannot be merged: {first_line(error)} Train it again, with a lower learning rate"
        raise ModelFileError(adapter.path, reason) from error
    merged = layer.get_base_layer().weight
    merged.data = merged.data.to(stored)
