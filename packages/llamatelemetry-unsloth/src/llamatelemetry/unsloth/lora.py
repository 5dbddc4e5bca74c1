"""Puts a new adapter on a loaded model, and writes down a trained one."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.unsloth.adapter import CONFIG
from llamatelemetry.unsloth.environment import refuse_its_export
from llamatelemetry.unsloth.loading import LoadedModel
from llamatelemetry.unsloth.quiet import without_prints
from llamatelemetry.unsloth.settings import LoraSettings
from llamatelemetry.unsloth.whole_folder import whole_folder

__all__ = ["add_adapter", "save_adapter"]

_USUAL: Final = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    # Where a family has several of them in one.
    *("qkv_proj", "gate_up_proj"),
)


def add_adapter(loaded: LoadedModel, lora: LoraSettings, *, seed: int, gradient_checkpointing: bool = True) -> Any:
    """A model to train: the loaded one with a new adapter, which is all of it that learns.

    Args:
        loaded: What :func:`~llamatelemetry.unsloth.loading.load_model` gave; it is changed.
        lora: Shape of the adapter.
        seed: Decides the adapter's first values.
        gradient_checkpointing: As the model was loaded.

    Raises:
        InvalidValueError: The model has no layer of such a name.
    """
    runtime, model = loaded.runtime, loaded.model
    alpha = lora.rank if lora.alpha is None else lora.alpha
    targets = _targets(runtime.torch, model, lora.targets)
    shape = {"r": lora.rank, "lora_alpha": alpha, "lora_dropout": lora.dropout, "target_modules": targets}
    with without_prints():
        if loaded.engine == "unsloth":
            trained = runtime.unsloth.FastLanguageModel.get_peft_model(
                model,
                **shape,
                random_state=seed,
                use_gradient_checkpointing="unsloth" if gradient_checkpointing else False,
            )
            refuse_its_export(trained)
            return trained
        if getattr(model, "is_loaded_in_4bit", False):
            model = runtime.peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        runtime.torch.manual_seed(seed)
        return runtime.peft.get_peft_model(model, runtime.peft.LoraConfig(**shape, task_type="CAUSAL_LM"))


def save_adapter(model: Any, folder: str | os.PathLike[str], *, base_model: str) -> Path:
    """Writes a trained adapter, the same bytes for the same adapter on any machine.

    Args:
        model: What was trained.
        folder: Where to; it appears when it is whole.
        base_model: What the adapter calls the model it belongs to, in place of a folder of this machine.

    Raises:
        InvalidValueError: Something is there already.
    """
    folder = Path(folder)
    with whole_folder(folder) as partial:
        with without_prints():
            model.save_pretrained(partial)
        (partial / "README.md").unlink(missing_ok=True)
        config = json.loads((partial / CONFIG).read_text())
        config["base_model_name_or_path"] = base_model
        # A set to PEFT, in the order of this process.
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()
        (partial / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return folder


def _targets(torch: Any, model: Any, wanted: tuple[str, ...] | None) -> list[str]:
    linear = (name for name, each in model.named_modules() if isinstance(each, torch.nn.Linear))
    there = sorted({name.rpartition(".")[2] for name in linear})
    if wanted is None:
        if found := [name for name in _USUAL if name in there]:
            return found
        raise InvalidValueError("targets", None, f"none of the usual layers is there; give some of {', '.join(there)}")
    for name in wanted:
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1)
            fix = f"did you mean {close[0]}?" if close else f"the model has {', '.join(there)}"
            raise InvalidValueError("targets", name, fix)
    return list(dict.fromkeys(wanted))
