"""Finetuning for llamatelemetry: LoRA adapters trained with unsloth or PEFT, looked into, and merged.

Importing this package imports nothing else: every public name is loaded on first use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamatelemetry.unsloth.adapter import Adapter as Adapter
    from llamatelemetry.unsloth.adapter import read_adapter as read_adapter
    from llamatelemetry.unsloth.finetune_stage import FinetuneStage as FinetuneStage
    from llamatelemetry.unsloth.finetuning import finetune as finetune
    from llamatelemetry.unsloth.loading import LoadedModel as LoadedModel
    from llamatelemetry.unsloth.loading import load_model as load_model
    from llamatelemetry.unsloth.lora import add_adapter as add_adapter
    from llamatelemetry.unsloth.lora import save_adapter as save_adapter
    from llamatelemetry.unsloth.merge_stage import MergeLoraStage as MergeLoraStage
    from llamatelemetry.unsloth.merging import MergedModel as MergedModel
    from llamatelemetry.unsloth.merging import merge_adapter as merge_adapter
    from llamatelemetry.unsloth.settings import LoraSettings as LoraSettings
    from llamatelemetry.unsloth.settings import TrainingSettings as TrainingSettings
else:
    _HOMES = {
        "Adapter": "adapter",
        "FinetuneStage": "finetune_stage",
        "LoadedModel": "loading",
        "LoraSettings": "settings",
        "MergeLoraStage": "merge_stage",
        "MergedModel": "merging",
        "TrainingSettings": "settings",
        "add_adapter": "lora",
        "finetune": "finetuning",
        "load_model": "loading",
        "merge_adapter": "merging",
        "read_adapter": "adapter",
        "save_adapter": "lora",
    }

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
