"""The stage ``compare`` of pipelines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.pipeline import Port, StageContext
from llamatelemetry.quantization.variants import VariantTable, read_report, variant_of

__all__ = ["CompareStage"]


class CompareStage:
    """Puts the reports on several models side by side: sizes, quality, speed.

    Each variant has three inputs: ``model_<name>``, and optionally ``quality_<name>`` and ``benchmark_<name>``.

    Args:
        variants: Names of the models, the parent of the others first.

    Raises:
        InvalidValueError: There is none, or two have one name.
    """

    name = "compare"
    version = "1"
    tools: Mapping[str, str] = {}
    outputs: tuple[Port, ...] = (
        Port(name="report", kind="report", help="JSON: sizes, quality and speed of each."),
        Port(name="table", kind="text", help="The same as a table in Markdown."),
    )

    def __init__(self, variants: Sequence[str]) -> None:
        if isinstance(variants, str) or not variants or len(set(variants)) != len(variants):
            raise InvalidValueError("variants", variants, "give a list of names, each once, the parent first")
        self.parameters: Mapping[str, Any] = {"variants": list(variants)}
        self.inputs: tuple[Port, ...] = tuple(port for name in variants for port in _ports(name))

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Reads the reports.

        Raises:
            InvalidValueError: One of them is none, or is of another model than it is wired to.
        """
        for name in self.parameters["variants"]:
            _check_reports(context, name, parent=self.parameters["variants"][0])
        found = VariantTable(
            variants=tuple(
                variant_of(
                    name,
                    context.inputs[f"model_{name}"].manifest.size_bytes,
                    quality=_given(context, f"quality_{name}"),
                    speed=_given(context, f"benchmark_{name}"),
                )
                for name in self.parameters["variants"]
            )
        )
        report, table = context.folder / "comparison.json", context.folder / "comparison.md"
        report.write_text(json.dumps(found.to_data(), indent=2) + "\n")
        table.write_text(found.markdown())
        return {"report": report, "table": table}


def _ports(name: str) -> tuple[Port, Port, Port]:
    return (
        Port(name=f"model_{name}", kind="gguf", help=f"The model {name}."),
        Port(name=f"quality_{name}", kind="report", help="What the stage validate says of it.", optional=True),
        Port(name=f"benchmark_{name}", kind="report", help="What the stage benchmark says of it.", optional=True),
    )


def _check_reports(context: StageContext, variant: str, *, parent: str) -> None:
    """Holds each report to be of its variant, as far as its manifest says what it was made from.

    A table would otherwise say of one model what was measured of another, and nobody would see.
    """
    wanted = {
        role: context.inputs[f"model_{name}"].manifest.content_digest
        for role, name in (("model", variant), ("parent", parent))
    }
    for report in (f"quality_{variant}", f"benchmark_{variant}"):
        made_of = context.inputs[report].manifest.parents if report in context.inputs else ()
        for each in made_of:
            if wanted.get(each.role, each.content_digest) != each.content_digest:
                against = f"model_{variant}" if each.role == "model" else f"model_{parent}, the first of the variants"
                fix = f"its {each.role} was not {against}: wire the report that is of these models"
                raise InvalidValueError(report, each.name, fix)


def _given(context: StageContext, name: str) -> Mapping[str, Any] | None:
    return read_report(context.path(name)) if name in context.inputs else None
