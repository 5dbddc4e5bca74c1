"""Loads a base model and its tokenizer to be trained, in a span that says what was loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opentelemetry import trace

from llamatelemetry.errors import InvalidValueError, LlamatelemetryError
from llamatelemetry.gpu.section import gpu_section
from llamatelemetry.semconv.model_load import MODEL_LOAD_SPAN, ModelLoadFacts, model_load_attributes
from llamatelemetry.unsloth.environment import refuse_its_export
from llamatelemetry.unsloth.failures import explained_loading
from llamatelemetry.unsloth.quiet import without_bars, without_prints
from llamatelemetry.unsloth.runtime import Libraries, import_runtime, versions_of
from llamatelemetry.unsloth.settings import Engine, check_engine

__all__ = ["LoadedModel", "load_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that can be trained.

    Attributes:
        model: The model, of transformers.
        tokenizer: Its tokenizer.
        engine: Who loaded it, and trains it.
        runtime: The modules it was loaded with.
    """

    model: Any
    tokenizer: Any
    engine: Engine
    runtime: Libraries


def load_model(
    source: str | os.PathLike[str],
    *,
    engine: Engine = "unsloth",
    sequence_length: int = 2048,
    load_in_4bit: bool = False,
    dtype: Any = None,
    gradient_checkpointing: bool = True,
    **options: Any,
) -> LoadedModel:
    """Loads a model, on the GPU if there is one.

    With unsloth this is ``FastLanguageModel.from_pretrained``, told that it is to load exactly this model, install
    nothing and report to nobody.

    Args:
        source: A folder as transformers saves it, or a name on the hub.
        engine: ``unsloth``, or ``peft`` for transformers as it is.
        sequence_length: Tokens that an example may have.
        load_in_4bit: Quantize the weights to four bits while they are loaded, with bitsandbytes.
        dtype: A ``torch.dtype`` of the weights; where None, it is 16 bits on a GPU, of which unsloth chooses, and
            float32 on a CPU, whatever the CPU can do: two machines, or two engines, are to learn the same.
        gradient_checkpointing: Compute again in the backward pass what would else be kept.
        options: More arguments for ``from_pretrained``.

    Raises:
        InvalidValueError: There is no such engine.
        MissingDependencyError: What the engine takes is not installed; carries the command that installs it.
        ModelFileError: There is no such model, or it cannot be read.
        OutOfMemoryError: It does not fit.
    """
    check_engine(engine)
    needed_for = f"training with engine={engine!r}"
    versions_of(engine, needed_for, load_in_4bit=load_in_4bit)
    runtime = import_runtime(engine, needed_for)
    name = os.fspath(source)
    wanted: dict[str, Any] = dict(options)
    if Path(name).is_dir():
        wanted["local_files_only"] = True
    facts = ModelLoadFacts(
        engine=engine,
        source=Path(name).name if Path(name).exists() else name,
        sequence_length=sequence_length,
    )
    with _span(facts), explained_loading(name), without_prints(), without_bars(runtime.transformers):
        if engine == "unsloth":
            model, tokenizer = runtime.unsloth.FastLanguageModel.from_pretrained(
                name,
                max_seq_length=sequence_length,
                dtype=dtype if dtype is not None or runtime.torch.accelerator.is_available() else runtime.torch.float32,
                load_in_4bit=load_in_4bit,
                use_exact_model_name=True,
                use_gradient_checkpointing="unsloth" if gradient_checkpointing else False,
                **wanted,
            )
            refuse_its_export(model)
        else:
            model = _by_transformers(runtime, name, load_in_4bit=load_in_4bit, dtype=dtype, options=wanted)
            tokenizer = runtime.transformers.AutoTokenizer.from_pretrained(name, **wanted)
        if load_in_4bit and getattr(model.config, "quantization_config", None) is None:
            # unsloth takes 16 bits where bitsandbytes does not work, and only prints that it does.
            fix = "bitsandbytes does not work on this machine; leave this out"
            raise InvalidValueError("load_in_4bit", load_in_4bit, fix)
        trace.get_current_span().set_attributes(model_load_attributes(_described(facts, model)))
    return LoadedModel(model=model, tokenizer=tokenizer, engine=engine, runtime=runtime)


def _by_transformers(
    runtime: Libraries, name: str, *, load_in_4bit: bool, dtype: Any, options: Mapping[str, Any]
) -> Any:
    torch, transformers = runtime.torch, runtime.transformers
    has_gpu = torch.cuda.is_available()
    if dtype is None:
        gpu_dtype = torch.bfloat16 if has_gpu and torch.cuda.is_bf16_supported(False) else torch.float16
        dtype = gpu_dtype if has_gpu else torch.float32
    device = "cuda" if has_gpu else "cpu"
    wanted: dict[str, Any] = {"dtype": dtype, **options}
    if load_in_4bit:
        wanted["device_map"] = {"": device}
        wanted["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    model = transformers.AutoModelForCausalLM.from_pretrained(name, **wanted)
    return model if load_in_4bit else model.to(device)


def _described(facts: ModelLoadFacts, model: Any) -> ModelLoadFacts:
    quantized = getattr(model.config, "quantization_config", None)
    method = getattr(quantized, "quant_method", "quantized")
    bits = " 4-bit" if getattr(quantized, "load_in_4bit", False) else ""
    return replace(
        facts,
        architecture=model.config.model_type,
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=None if quantized is None else f"{getattr(method, 'value', method)}{bits}",
        parameters=int(model.num_parameters()),
    )


@contextmanager
def _span(facts: ModelLoadFacts) -> Iterator[None]:
    known = {name: value for name, value in model_load_attributes(facts).items() if not isinstance(value, tuple)}
    with gpu_section(MODEL_LOAD_SPAN, known):
        try:
            yield
        except Exception as error:
            kind = error.error_type if isinstance(error, LlamatelemetryError) else type(error).__name__
            trace.get_current_span().set_attributes(model_load_attributes(replace(facts, error_type=kind)))
            raise
