"""The verb ``quality``: how good a model is, and how much worse than its parent."""

from __future__ import annotations

from pathlib import Path

import click

from llamatelemetry.cli.output import console, examples, json_option, print_json
from llamatelemetry.quantization.count_progress import count_progress
from llamatelemetry.quantization.evaluation.logits import DEFAULT_CONTEXT
from llamatelemetry.quantization.evaluation.quality import Quality, QualityProgress, measure_quality
from llamatelemetry.quantization.evaluation.quality_report import QualityLimits, quality_facts, quality_rows


@click.command(
    epilog=examples(
        "llamatelemetry quality model-q4.gguf --parent model-f16.gguf",
        "llamatelemetry quality model-q4.gguf --parent model-f16.gguf --windows 8 --max-divergence 0.1 --json",
    )
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--parent", type=click.Path(path_type=Path), help="The model it was made of, best of F16 or BF16.")
@click.option(
    "--text", type=click.Path(path_type=Path), help="A text in UTF-8; when not given, one that comes with this."
)
@click.option("--context", type=int, default=DEFAULT_CONTEXT, show_default=True, help="Tokens in a window.")
@click.option("--windows", type=int, help="Windows to measure at most; the whole text when not given.")
@click.option("--threads", type=int, help="CPU threads, for both models together; all there are when not given.")
@click.option("--library", type=click.Path(path_type=Path), help="A libllama.so; when not given, an installed one.")
@click.option("--max-divergence", type=float, help="Exit with an error above this mean divergence.")
@click.option("--max-ratio", type=float, help="Exit with an error above this ratio of perplexities.")
@json_option
def quality(
    model: Path,
    *,
    parent: Path | None,
    text: Path | None,
    context: int,
    windows: int | None,
    threads: int | None,
    library: Path | None,
    max_divergence: float | None,
    max_ratio: float | None,
    as_json: bool,
) -> None:
    """Measure what a GGUF model lost.

    Perplexity says how surprised MODEL is by a text: 20 means as unsure as between 20 equally likely tokens. With
    --parent, its whole distribution is compared with the parent's at every token: the divergence is 0 where they
    are the same, and a Q4_K_M is usually between 0.01 and 0.1. Ratio and divergence are what to choose a
    quantization by; they need far less text than a perplexity does.

    The text is cut into windows, and the second half of each is scored, as llama-perplexity does. Both models run
    in llama.cpp. Behind each figure stands its 95 % interval over windows: more text, smaller interval.
    """
    limits = QualityLimits(divergence=max_divergence, perplexity_ratio=max_ratio)
    limits.check_parent(there=parent is not None)
    with count_progress("Measuring") as advance:

        def tell(progress: QualityProgress) -> None:
            divergence = "" if progress.divergence is None else f", divergence {progress.divergence:.4f}"
            advance(progress.done, progress.total, f"loss {progress.loss:.3f}{divergence}")

        measured = measure_quality(
            model,
            parent,
            text=text,
            context=context,
            windows=windows,
            threads=threads,
            library=library,
            on_progress=tell,
        )
    if as_json:
        print_json({"model": str(model), "parent": None if parent is None else str(parent), **quality_facts(measured)})
    else:
        _show(measured)
    limits.check(measured)


def _show(measured: Quality) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("measured", justify="right")
    table.add_column("95 % interval")
    for row in quality_rows(measured):
        table.add_row(*row)
    out = console()
    out.print(
        f"{measured.windows} windows of {measured.context} tokens of {measured.text.name}, {measured.tokens} scored"
    )
    out.print(table)
