"""GGUF files for llamatelemetry: quantized with ggml's own kernels.

Importing this package imports nothing else: every public name is loaded on first use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamatelemetry.quantization.converting import CONVERTED_TYPES as CONVERTED_TYPES
    from llamatelemetry.quantization.converting import ConvertedModel as ConvertedModel
    from llamatelemetry.quantization.converting import ConvertProgress as ConvertProgress
    from llamatelemetry.quantization.converting import convert as convert
    from llamatelemetry.quantization.export_stage import ExportGGUFStage as ExportGGUFStage
    from llamatelemetry.quantization.file_types import FILE_TYPES as FILE_TYPES
    from llamatelemetry.quantization.file_types import FileType as FileType
    from llamatelemetry.quantization.imatrix import Importance as Importance
    from llamatelemetry.quantization.imatrix import read_importance as read_importance
    from llamatelemetry.quantization.measuring import ImportanceCollector as ImportanceCollector
    from llamatelemetry.quantization.quantizing import QuantizedModel as QuantizedModel
    from llamatelemetry.quantization.quantizing import QuantizeProgress as QuantizeProgress
    from llamatelemetry.quantization.quantizing import quantize as quantize
    from llamatelemetry.quantization.stage import QuantizeStage as QuantizeStage
else:
    _HOMES = {
        "CONVERTED_TYPES": "converting",
        "ConvertProgress": "converting",
        "ConvertedModel": "converting",
        "ExportGGUFStage": "export_stage",
        "FILE_TYPES": "file_types",
        "FileType": "file_types",
        "Importance": "imatrix",
        "ImportanceCollector": "measuring",
        "QuantizeProgress": "quantizing",
        "QuantizeStage": "stage",
        "QuantizedModel": "quantizing",
        "convert": "converting",
        "quantize": "quantizing",
        "read_importance": "imatrix",
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
