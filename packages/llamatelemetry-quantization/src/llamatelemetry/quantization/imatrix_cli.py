"""The verb ``imatrix``: how much each column of each weight matters."""

from __future__ import annotations

from pathlib import Path

import click

from llamatelemetry.cli.output import examples, json_option, print_json
from llamatelemetry.quantization.count_progress import count_progress
from llamatelemetry.quantization.evaluation.importance import measure_importance
from llamatelemetry.quantization.evaluation.logits import DEFAULT_CONTEXT


@click.command(
    epilog=examples(
        "llamatelemetry imatrix model-f16.gguf --out imatrix.gguf",
        "llamatelemetry imatrix model-f16.gguf --out imatrix.gguf --text chats.txt --windows 100",
        "llamatelemetry quantize model-f16.gguf model-q3.gguf --type Q3_K_M --imatrix imatrix.gguf",
    )
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--out", "target", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option("--text", type=click.Path(path_type=Path), help="A text in UTF-8; one comes with this.")
@click.option("--context", type=int, default=DEFAULT_CONTEXT, show_default=True, help="Tokens in a window.")
@click.option("--windows", type=int, help="Windows to read at most; the whole text when not given.")
@click.option("--threads", type=int, help="CPU threads to compute with; all there are when not given.")
@click.option("--library", type=click.Path(path_type=Path), help="A libllama.so; when not given, an installed one.")
@json_option
def imatrix(
    model: Path,
    *,
    target: Path,
    text: Path | None,
    context: int,
    windows: int | None,
    threads: int | None,
    library: Path | None,
    as_json: bool,
) -> None:
    """Measure an importance matrix of a GGUF model.

    MODEL, best of F16 or BF16, reads a text in llama.cpp. What goes into each column of each weight is added up
    and written as llama-imatrix writes it; quantize takes it with --imatrix, and rounds the columns that matter
    with more care. It helps every type below 6 bits a weight, and those of 1 or 2 bits are of no use without.

    Take a text like what the model will be used for. A few thousand tokens do; --windows bounds them.
    """
    with count_progress("Measuring") as advance:
        made = measure_importance(
            model,
            target,
            text=text,
            context=context,
            windows=windows,
            threads=threads,
            library=library,
            on_progress=lambda progress: advance(progress.done, progress.total, ""),
        )
    if as_json:
        print_json({"path": str(target), "weights": len(made.entries), "dataset": made.dataset, "windows": made.chunks})
    else:
        measured = f"{made.chunks} windows of {made.dataset}"
        click.echo(f"{target} has the importance of {len(made.entries)} weights, of {measured}.")
