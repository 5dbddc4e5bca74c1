"""GGUF files for llamatelemetry: quantized with ggml's own kernels.

Importing this package imports nothing else: every public name is loaded on first use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamatelemetry.quantization.compare_stage import CompareStage as CompareStage
    from llamatelemetry.quantization.converting import CONVERTED_TYPES as CONVERTED_TYPES
    from llamatelemetry.quantization.converting import ConvertedModel as ConvertedModel
    from llamatelemetry.quantization.converting import ConvertProgress as ConvertProgress
    from llamatelemetry.quantization.converting import convert as convert
    from llamatelemetry.quantization.dynamic.budget import Budget as Budget
    from llamatelemetry.quantization.dynamic.choosing import DynamicModel as DynamicModel
    from llamatelemetry.quantization.dynamic.choosing import DynamicProgress as DynamicProgress
    from llamatelemetry.quantization.dynamic.choosing import quantize_dynamic as quantize_dynamic
    from llamatelemetry.quantization.dynamic_stage import DynamicStage as DynamicStage
    from llamatelemetry.quantization.evaluation.importance import ImportanceProgress as ImportanceProgress
    from llamatelemetry.quantization.evaluation.importance import measure_importance as measure_importance
    from llamatelemetry.quantization.evaluation.intervals import Estimate as Estimate
    from llamatelemetry.quantization.evaluation.logits import LlamaLogits as LlamaLogits
    from llamatelemetry.quantization.evaluation.logits import LogitsSource as LogitsSource
    from llamatelemetry.quantization.evaluation.quality import Comparison as Comparison
    from llamatelemetry.quantization.evaluation.quality import Quality as Quality
    from llamatelemetry.quantization.evaluation.quality import QualityProgress as QualityProgress
    from llamatelemetry.quantization.evaluation.quality import compare_sources as compare_sources
    from llamatelemetry.quantization.evaluation.quality import measure_quality as measure_quality
    from llamatelemetry.quantization.evaluation.shared_logits import SharedLogits as SharedLogits
    from llamatelemetry.quantization.evaluation.texts import Text as Text
    from llamatelemetry.quantization.evaluation.texts import read_text as read_text
    from llamatelemetry.quantization.export_stage import ExportGGUFStage as ExportGGUFStage
    from llamatelemetry.quantization.file_types import FILE_TYPES as FILE_TYPES
    from llamatelemetry.quantization.file_types import FileType as FileType
    from llamatelemetry.quantization.imatrix import Importance as Importance
    from llamatelemetry.quantization.imatrix import read_importance as read_importance
    from llamatelemetry.quantization.imatrix_stage import ImatrixStage as ImatrixStage
    from llamatelemetry.quantization.measuring import ImportanceCollector as ImportanceCollector
    from llamatelemetry.quantization.quantizing import QuantizedModel as QuantizedModel
    from llamatelemetry.quantization.quantizing import QuantizeProgress as QuantizeProgress
    from llamatelemetry.quantization.quantizing import quantize as quantize
    from llamatelemetry.quantization.road import QuantizationPipeline as QuantizationPipeline
    from llamatelemetry.quantization.road import QuantizationRun as QuantizationRun
    from llamatelemetry.quantization.stage import QuantizeStage as QuantizeStage
    from llamatelemetry.quantization.validate_stage import ValidateStage as ValidateStage
    from llamatelemetry.quantization.variants import Variant as Variant
    from llamatelemetry.quantization.variants import VariantTable as VariantTable
else:
    _HOMES = {
        "Budget": "dynamic.budget",
        "DynamicModel": "dynamic.choosing",
        "DynamicProgress": "dynamic.choosing",
        "quantize_dynamic": "dynamic.choosing",
        "DynamicStage": "dynamic_stage",
        "measure_importance": "evaluation.importance",
        "ImportanceProgress": "evaluation.importance",
        "ImatrixStage": "imatrix_stage",
        "Estimate": "evaluation.intervals",
        "LlamaLogits": "evaluation.logits",
        "LogitsSource": "evaluation.logits",
        "Comparison": "evaluation.quality",
        "Quality": "evaluation.quality",
        "QualityProgress": "evaluation.quality",
        "measure_quality": "evaluation.quality",
        "compare_sources": "evaluation.quality",
        "SharedLogits": "evaluation.shared_logits",
        "Text": "evaluation.texts",
        "read_text": "evaluation.texts",
        "ValidateStage": "validate_stage",
        "CONVERTED_TYPES": "converting",
        "CompareStage": "compare_stage",
        "ConvertProgress": "converting",
        "ConvertedModel": "converting",
        "ExportGGUFStage": "export_stage",
        "FILE_TYPES": "file_types",
        "FileType": "file_types",
        "Importance": "imatrix",
        "ImportanceCollector": "measuring",
        "QuantizationPipeline": "road",
        "QuantizationRun": "road",
        "QuantizeProgress": "quantizing",
        "QuantizeStage": "stage",
        "QuantizedModel": "quantizing",
        "Variant": "variants",
        "VariantTable": "variants",
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
