"""The verb ``dynamic``: the best types for a model under a budget."""

from __future__ import annotations

from pathlib import Path

import click

from llamatelemetry.cli.output import console, examples, json_option, print_json
from llamatelemetry.quantization.count_progress import count_progress
from llamatelemetry.quantization.dynamic.budget import Budget
from llamatelemetry.quantization.dynamic.choosing import (
    DEFAULT_CONTEXT,
    DEFAULT_WINDOWS,
    DynamicModel,
    DynamicProgress,
    quantize_dynamic,
)
from llamatelemetry.quantization.dynamic.groups import DEFAULT_BANDS, DEFAULT_TYPES
from llamatelemetry.quantization.dynamic_report import dynamic_facts


@click.command(
    epilog=examples(
        "llamatelemetry dynamic model-f16.gguf model-small.gguf --like Q4_K_M --cache trials.json",
        "llamatelemetry dynamic model-f16.gguf model-small.gguf --bits 5 --cache trials.json",
        "llamatelemetry dynamic model-f16.gguf model-good.gguf --max-divergence 0.02 --cache trials.json",
        "llamatelemetry quality model-small.gguf --parent model-f16.gguf",
    )
)
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--like", metavar="TYPE", help="Budget: no larger than this type would be, for example Q4_K_M.")
@click.option("--bits", type=float, help="Budget: most bits of the file for each weight.")
@click.option("--bytes", "size_bytes", type=int, help="Budget: most bytes of the file.")
@click.option("--max-divergence", type=float, help="Budget: most divergence from IN, in nats a token.")
@click.option("-t", "--types", default=",".join(DEFAULT_TYPES), show_default=True, help="Types that may be chosen.")
@click.option("--bands", type=int, default=DEFAULT_BANDS, show_default=True, help="Parts that the blocks are cut into.")
@click.option("--text", type=click.Path(path_type=Path), help="A text in UTF-8; one comes with this.")
@click.option("--context", type=int, default=DEFAULT_CONTEXT, show_default=True, help="Tokens in a window.")
@click.option("--windows", type=int, default=DEFAULT_WINDOWS, show_default=True, help="Windows to measure at most.")
@click.option("--imatrix", type=click.Path(path_type=Path), help="An importance matrix, as the verb imatrix makes it.")
@click.option("--cache", type=click.Path(path_type=Path), help="A file that keeps what was measured.")
@click.option("--threads", type=int, help="CPU threads to compute with; all there are when not given.")
@click.option("--library", type=click.Path(path_type=Path), help="A libllama.so; when not given, an installed one.")
@json_option
def dynamic(
    source: Path,
    target: Path,
    *,
    like: str | None,
    bits: float | None,
    size_bytes: int | None,
    max_divergence: float | None,
    types: str,
    bands: int,
    text: Path | None,
    context: int,
    windows: int,
    imatrix: Path | None,
    cache: Path | None,
    threads: int | None,
    library: Path | None,
    as_json: bool,
) -> None:
    """Make a GGUF model smaller with the types that hurt it least.

    A mix such as Q4_K_M has the same rules for every model. Here, each type is tried on each group of tensors of
    IN alone, and the model runs in llama.cpp to see how far it then is from IN. What loses least in all under the
    budget is chosen. Give one budget: --like, --bits, --bytes or --max-divergence.

    A group is what has the same role, such as ffn_down, in one band of blocks. That makes about six trials for
    each role and band: minutes for a small model, hours for a large one. With --cache a run that was stopped goes
    on where it was, and another budget takes no further trials but one. Measure OUT with the verb quality, on
    another text.
    """
    budget = Budget(size_bytes=size_bytes, bits_per_weight=bits, like=like, max_divergence=max_divergence)
    with count_progress("Trying") as advance:

        def tell(progress: DynamicProgress) -> None:
            remark = f"{progress.group} {progress.type}: divergence {progress.divergence:.4f}"
            advance(progress.done, progress.total, remark)

        made = quantize_dynamic(
            source,
            target,
            budget=budget,
            types=[name.strip() for name in types.split(",") if name.strip()],
            bands=bands,
            text=text,
            context=context,
            windows=windows,
            imatrix=imatrix,
            threads=threads,
            library=library,
            cache=cache,
            on_progress=tell,
        )
    if as_json:
        print_json({"path": str(made.model.path), **dynamic_facts(made)})
    else:
        _show(made)


def _show(made: DynamicModel) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("group", "type", "MB", "divergence alone"):
        table.add_column(name, justify="left" if name in {"group", "type"} else "right")
    for group in made.groups:
        given = ", ".join(sorted(set(group.given)))
        table.add_row(group.name, given, f"{group.size_bytes / 1e6:.2f}", f"{group.divergence:.5f}")
    console().print(table)
    click.echo(
        f"{made.model.path}: {made.model.size_bytes / 1e6:.1f} MB, {made.model.bits_per_weight:.2f} bits a weight, "
        f"divergence {made.measured:.4f} where the groups' add up to {made.predicted:.4f}. {made.trials} trials."
    )
