"""Writes the reference pages from the code before Sphinx reads them, so that neither can be out of date.

Three sources: the public modules (autodoc does the rest), the settings with their environment
variables, and the catalogue of everything that can be emitted.
"""

from __future__ import annotations

import dataclasses
import inspect
import pydoc
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from sphinx.util.nodes import make_refnode

from llamatelemetry.config import VARIABLES, Settings
from llamatelemetry.semconv.catalogue import ALL_PROFILES, AttributeEntry, InstrumentEntry, catalogue

if TYPE_CHECKING:
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

MODULES: dict[str, tuple[str, ...]] = {
    "Using it": (
        "llamatelemetry.sdk",
        "llamatelemetry.otel.delivery",
        "llamatelemetry.inference.engine",
        "llamatelemetry.inference.stream",
        "llamatelemetry.inference.result",
        "llamatelemetry.inference.live",
        "llamatelemetry.backends.request",
        "llamatelemetry.config",
        "llamatelemetry.errors",
    ),
    "Scheduling": (
        "llamatelemetry.inference.policy",
        "llamatelemetry.inference.retry",
    ),
    "llama.cpp": (
        "llamatelemetry.llama.backend",
        "llamatelemetry.llama.client",
        "llamatelemetry.llama.transport",
        "llamatelemetry.llama.server_replies",
        "llamatelemetry.llama.answer_replies",
        "llamatelemetry.llama.server",
        "llamatelemetry.llama.runtime",
        "llamatelemetry.llama.gguf",
        "llamatelemetry.llama.shape",
        "llamatelemetry.llama.block_caches",
        "llamatelemetry.llama.metrics",
        "llamatelemetry.llama.model_files",
    ),
    "Hugging Face models": (
        "llamatelemetry.transformers.backend",
        "llamatelemetry.transformers.shape",
        "llamatelemetry.transformers.checkpoint",
    ),
    "Finetuning": (
        "llamatelemetry.unsloth.finetuning",
        "llamatelemetry.unsloth.settings",
        "llamatelemetry.unsloth.dataset",
        "llamatelemetry.unsloth.loading",
        "llamatelemetry.unsloth.lora",
        "llamatelemetry.unsloth.runtime",
        "llamatelemetry.unsloth.merging",
        "llamatelemetry.unsloth.adapter",
        "llamatelemetry.unsloth.finetune_stage",
        "llamatelemetry.unsloth.merge_stage",
        "llamatelemetry.unsloth.environment",
    ),
    "Quantization": (
        "llamatelemetry.quantization.converting",
        "llamatelemetry.quantization.export_stage",
        "llamatelemetry.quantization.small_checkpoints",
        "llamatelemetry.quantization.conversion.families",
        "llamatelemetry.quantization.conversion.pre_tokenizers",
        "llamatelemetry.quantization.conversion.sizes",
        "llamatelemetry.quantization.conversion.config_values",
        "llamatelemetry.quantization.quantizing",
        "llamatelemetry.quantization.file_types",
        "llamatelemetry.quantization.imatrix",
        "llamatelemetry.quantization.measuring",
        "llamatelemetry.quantization.nf4.formats",
        "llamatelemetry.quantization.nf4.tensors",
        "llamatelemetry.quantization.nf4.layers",
        "llamatelemetry.quantization.nf4.losses",
        "llamatelemetry.quantization.nf4.checkpoints",
        "llamatelemetry.quantization.nf4.runtime",
        "llamatelemetry.quantization.stage",
        "llamatelemetry.quantization.road",
        "llamatelemetry.quantization.variants",
        "llamatelemetry.quantization.compare_stage",
        "llamatelemetry.quantization.validate_stage",
        "llamatelemetry.quantization.evaluation.quality",
        "llamatelemetry.quantization.evaluation.shared_logits",
        "llamatelemetry.quantization.evaluation.logits_folder",
        "llamatelemetry.quantization.evaluation.intervals",
        "llamatelemetry.quantization.evaluation.logits",
        "llamatelemetry.quantization.evaluation.texts",
        "llamatelemetry.quantization.evaluation.importance",
        "llamatelemetry.quantization.imatrix_stage",
        "llamatelemetry.quantization.dynamic.choosing",
        "llamatelemetry.quantization.dynamic.budget",
        "llamatelemetry.quantization.dynamic_stage",
        "llamatelemetry.quantization.testing",
    ),
    "GPUs": (
        "llamatelemetry.gpu.section",
        "llamatelemetry.gpu.use",
        "llamatelemetry.gpu.energy",
        "llamatelemetry.gpu.nvml",
        "llamatelemetry.gpu.reader",
        "llamatelemetry.gpu.device",
        "llamatelemetry.gpu.snapshot",
        "llamatelemetry.gpu.sampler",
        "llamatelemetry.distributed.topology",
        "llamatelemetry.distributed.proximity",
        "llamatelemetry.distributed.nvml_links",
        "llamatelemetry.distributed.p2p",
        "llamatelemetry.distributed.topology_text",
        "llamatelemetry.distributed.cpu_list",
        "llamatelemetry.distributed.inquiry",
    ),
    "Placement": (
        "llamatelemetry.distributed.planning",
        "llamatelemetry.distributed.placement",
        "llamatelemetry.distributed.serving",
        "llamatelemetry.distributed.memory_terms",
        "llamatelemetry.distributed.shape",
        "llamatelemetry.distributed.free_memory",
        "llamatelemetry.distributed.partition",
        "llamatelemetry.distributed.llama_command",
        "llamatelemetry.distributed.placement_text",
        "llamatelemetry.distributed.placement_json",
        "llamatelemetry.distributed.sizes",
    ),
    "Pipelines": (
        "llamatelemetry.pipeline.tracer",
        "llamatelemetry.pipeline.context",
        "llamatelemetry.pipeline.stage_trace",
        "llamatelemetry.pipeline.stage_label",
        "llamatelemetry.pipeline.trainer",
        "llamatelemetry.pipeline.step_log",
        "llamatelemetry.pipeline.runner",
        "llamatelemetry.pipeline.nodes",
        "llamatelemetry.pipeline.stage",
        "llamatelemetry.pipeline.wiring",
        "llamatelemetry.pipeline.outcome",
        "llamatelemetry.pipeline.progress",
        "llamatelemetry.pipeline.resources",
        "llamatelemetry.bench.load",
        "llamatelemetry.bench.report",
        "llamatelemetry.bench.intervals",
        "llamatelemetry.bench.stage",
    ),
    "Deploying": (
        "llamatelemetry.deployment.deploying",
        "llamatelemetry.deployment.stopping",
        "llamatelemetry.deployment.standing",
        "llamatelemetry.deployment.record",
        "llamatelemetry.deployment.processes",
        "llamatelemetry.deployment.stage",
        "llamatelemetry.distributed.host_memory",
    ),
    "Artifacts": (
        "llamatelemetry.artifacts.files",
        "llamatelemetry.artifacts.manifest",
        "llamatelemetry.artifacts.store",
        "llamatelemetry.artifacts.graph",
        "llamatelemetry.artifacts.lookup",
        "llamatelemetry.artifacts.hashing",
        "llamatelemetry.artifacts.lineage",
        "llamatelemetry.artifacts.evidence",
        "llamatelemetry.artifacts.signing",
        "llamatelemetry.artifacts.provenance",
        "llamatelemetry.artifacts.bill_of_materials",
        "llamatelemetry.artifacts.statement",
        "llamatelemetry.artifacts.canonical",
        "llamatelemetry.artifacts.parsing",
    ),
    "Extending it": (
        "llamatelemetry.plugins",
        "llamatelemetry.plugins.hookspecs",
        "llamatelemetry.backends.protocol",
        "llamatelemetry.backends.echo",
        "llamatelemetry.inference.record",
        "llamatelemetry.inference.sink",
        "llamatelemetry.inference.metering",
        "llamatelemetry.inference.observation",
        "llamatelemetry.otel.instrumentation",
        "llamatelemetry.distributed.shape",
        "llamatelemetry.clock",
        "llamatelemetry.untrusted.files",
        "llamatelemetry.untrusted.json_values",
        "llamatelemetry.untrusted.safetensors_header",
        "llamatelemetry.semconv.attributes",
        "llamatelemetry.semconv.catalogue",
        "llamatelemetry.semconv.facts",
        "llamatelemetry.semconv.metrics",
        "llamatelemetry.semconv.engine_metrics",
        "llamatelemetry.semconv.gpu",
        "llamatelemetry.semconv.hw",
        "llamatelemetry.semconv.torch_memory",
        "llamatelemetry.testing.contracts",
        "llamatelemetry.testing.engine_contract",
        "llamatelemetry.testing.stage_contract",
        "llamatelemetry.testing.telling",
        "llamatelemetry.testing.nvml_stub",
        "llamatelemetry.testing.nvml_stub_devices",
        "llamatelemetry.testing.nvml_stub_scenarios",
        "llamatelemetry.testing.nvml_stub_script",
        "llamatelemetry.testing.semconv",
    ),
}

SPANS = {
    "inference": "Inference span",
    "model_origin": "Link to the span that made the model",
    "attempt_failed": "Event of a failed try",
    "phase": "Phase spans",
    "section": "Section spans",
    "server_start": "Server start span",
    "pipeline": "Pipeline run span",
    "stage": "Stage spans",
    "step": "Event of a step",
    "model_load": "Span of a model that is loaded to be trained",
    "deploy": "Deployment span",
    "deploy_step": "Spans of what a deployment does",
    "resource": "Resource",
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers with Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("missing-reference", resolve_short_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(app: Sphinx) -> None:
    """Writes every generated page; one that did not change keeps its time, so that builds stay incremental."""
    folder = Path(app.srcdir, "reference", "generated")
    pages = dict(api_pages()) | {"configuration.md": configuration_page(), "telemetry.md": telemetry_page()}
    folder.mkdir(parents=True, exist_ok=True)
    for stale in {path.name for path in folder.iterdir()} - set(pages):
        (folder / stale).unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def keep_colons(_app: Sphinx, what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Keeps napoleon from taking "Slots: one each." above a constant for a type and its text.

    It looks for that in the first line only, so the first line becomes a comment.
    """
    if what in {"attribute", "data", "property"}:
        lines[:0] = ["..", ""]


def resolve_short_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: Any) -> Any:
    """Finds what a docstring names without its module, or by the module that re-exports it.

    Docstrings are read in editors first, so they say ``InferenceResult`` and not where it lives.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target:
        return None
    last = target.rpartition(".")[2]
    known = env.domains.python_domain.objects
    found = [name for name in known if name.endswith(f".{last}") and target in {last, _exported_as(target, name)}]
    if len(found) != 1:
        return None
    entry = known[found[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, text, found[0])


def _exported_as(target: str, name: str) -> str:
    """The target itself if it is the object of that name under another name; else nothing."""
    return target if pydoc.locate(target) is pydoc.locate(name) is not None else ""


def api_pages() -> Iterator[tuple[str, str]]:
    """Yields file name and text of one page per public module, and of their index."""
    index = ["# Python API", ""]
    for title, modules in MODULES.items():
        index += [f"## {title}", "", "```{toctree}", ":maxdepth: 1", "", *modules, "```", ""]
        for module in modules:
            yield f"{module}.rst", f"{module}\n{'=' * len(module)}\n\n.. automodule:: {module}\n   :members:\n"
    yield "api.md", "\n".join(index)


def configuration_page() -> str:
    """Settings: argument, variable, values, default, meaning."""
    variables = {variable.field: variable.name for variable in VARIABLES}
    hints = get_type_hints(Settings)
    meanings = attribute_docs(Settings)
    rows = [
        (
            f"`{field.name}`",
            f"`{variables[field.name]}`" if field.name in variables else "",
            values_of(hints[field.name]),
            shown_default(field),
            meanings[field.name],
        )
        for field in dataclasses.fields(Settings)
    ]
    return page(
        "Configuration",
        "An argument of `init()` wins over its environment variable, which wins over the default. A value that "
        "cannot be used raises `ConfigurationError`, which names the variable, the value and the choices.",
        table(("Setting", "Variable", "Values", "Default", "Meaning"), rows),
    )


def attribute_docs(documented: type) -> dict[str, str]:
    """The ``Attributes:`` section of a class docstring: names to text, each on one line."""
    section = (inspect.getdoc(documented) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.split(r"^ {4}(?=\w+: )", section, flags=re.MULTILINE)[1:]
    pairs = (entry.split(": ", 1) for entry in entries)
    return {name: " ".join(text.split()) for name, text in pairs}


def values_of(hint: Any) -> str:
    """What may be given for a type, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if type(None) in arguments:
        return values_of(next(part for part in arguments if part is not type(None)))
    if origin is tuple:
        return f"list of {values_of(arguments[0])}"
    if origin is not None and issubclass(_class_of(origin), Mapping):
        return "`key=value` pairs"
    if arguments:
        return ", ".join(f"`{choice}`" for choice in arguments)
    return {bool: "`true`, `false`", int: "whole number", float: "number", Path: "path", str: "text"}[hint]


def _class_of(origin: Any) -> type:
    return origin if isinstance(origin, type) else object


def shown_default(field: dataclasses.Field[Any]) -> str:
    """A setting's default, as code; empty where there is none."""
    default = field.default if field.default is not dataclasses.MISSING else None
    if default is None or default == ():
        return ""
    return f"`{','.join(default) if isinstance(default, tuple) else default}`"


def telemetry_page() -> str:
    """Every span attribute and every metric, with the profile that emits it."""
    entries = list(catalogue())
    parts = []
    for span, title in SPANS.items():
        parts += [f"## {title}"]
        for profile in (None, *ALL_PROFILES):
            rows = [
                attribute_row(entry)
                for entry in entries
                if isinstance(entry, AttributeEntry) and (entry.span, entry.profile) == (span, profile)
            ]
            if rows:
                heading = f"Profile `{profile}`" if profile else "With any profile"
                parts += [
                    f"### {heading} on the {title.lower()}",
                    table(("Attribute", "Type", "When", "Meaning"), rows),
                ]
    rows = [instrument_row(entry) for entry in entries if isinstance(entry, InstrumentEntry)]
    parts += ["## Metrics", table(("Metric", "Kind, unit", "Profile", "Meaning", "Attributes", "Buckets"), rows)]
    return page(
        "Telemetry",
        "Everything that can be emitted. Durations are seconds, memory is bytes, energy is joules. A figure nobody "
        "measured is left out, never sent as zero. `LLAMATELEMETRY_SEMCONV` chooses the profiles.",
        *parts,
    )


def attribute_row(entry: AttributeEntry) -> tuple[str, ...]:
    """Cells of one attribute."""
    row = entry.row
    kind = f"{row.type}, {row.unit}" if row.unit else row.type
    when = row.requirement.replace("_", " ") + (f": {row.condition}" if row.condition else "")
    if row.task is not None:
        when += f"; {row.task} only"
    return (f"`{row.name}`", kind, when, row.brief)


def instrument_row(entry: InstrumentEntry) -> tuple[str, ...]:
    """Cells of one metric."""
    row = entry.row
    kind = f"{row.kind.replace('_', ' ')}, {row.unit}" if row.unit else row.kind.replace("_", " ")
    attributes = ", ".join(f"`{attribute.name}`" for attribute in row.attributes)
    buckets = " ".join(f"{bound:.9g}" for bound in row.buckets)
    return (f"`{row.name}`", kind, f"`{entry.profile}`" if entry.profile else "any", row.brief, attributes, buckets)


def page(title: str, *parts: str) -> str:
    """A MyST page."""
    return "\n\n".join((f"# {title}", *parts)) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
