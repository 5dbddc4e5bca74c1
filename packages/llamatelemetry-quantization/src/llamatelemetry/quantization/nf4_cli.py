"""The verb ``nf4``: what four bits would cost a checkpoint, tensor by tensor."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import click
from rich.table import Table

from llamatelemetry.cli.output import console, examples, json_option, print_json
from llamatelemetry.quantization.byte_progress import byte_progress
from llamatelemetry.quantization.nf4.checkpoints import CheckpointLoss, measure_checkpoint
from llamatelemetry.quantization.nf4.formats import BLOCK_SIZES, DEFAULT_SKIP, FormatName, FourBit
from llamatelemetry.quantization.nf4.losses import Loss


@click.command(
    epilog=examples(
        "llamatelemetry nf4 ./smollm2",
        "llamatelemetry nf4 ./smollm2 --format fp4 --block-size 128 --single --json",
    )
)
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--format", "name", type=click.Choice(get_args(FormatName)), default="nf4", show_default=True, help="The format."
)
@click.option(
    "--block-size",
    type=int,
    default=64,
    show_default=True,
    metavar="N",
    help=f"Numbers that share a scale: {', '.join(map(str, BLOCK_SIZES))}.",
)
@click.option("--single", is_flag=True, help="Keep scales in 32 bits; they are quantized too when not given.")
@click.option(
    "--skip",
    multiple=True,
    default=DEFAULT_SKIP,
    show_default=True,
    metavar="PATTERN",
    help="Tensors in whose names it is found stay as they are; repeatable.",
)
@click.option("--device", default="cpu", show_default=True, help="Where to compute, as torch calls it.")
@json_option
def nf4(
    folder: Path, *, name: FormatName, block_size: int, single: bool, skip: tuple[str, ...], device: str, as_json: bool
) -> None:
    """Say what each matrix of a checkpoint would lose in four bits of bitsandbytes.

    FOLDER has config.json and safetensors in it, as transformers saves them. Nothing is written, and one tensor at
    a time is in memory.
    """
    four_bit = FourBit(name=name, block_size=block_size, double_quantization=not single)
    with byte_progress("Measuring") as advance:
        found = measure_checkpoint(folder, four_bit, skip=skip, device=device, on_progress=advance)
    if as_json:
        print_json(_figures(found))
    else:
        _show(found)


def _figures(found: CheckpointLoss) -> dict[str, object]:
    return {
        "format": asdict(found.four_bit),
        "tensors": [{"name": each.name, "shape": list(each.shape), **_of(each.loss)} for each in found.tensors],
        "quantized": _of(found.loss),
        "kept": dict(found.kept),
        "size_bytes": found.size_bytes,
        "source_bytes": found.source_bytes,
        "bits_per_weight": found.bits_per_weight,
    }


def _of(loss: Loss) -> dict[str, Any]:
    return {
        "elements": loss.elements,
        "relative_error": loss.relative_error,
        "max_abs_error": loss.max_abs_error,
        "snr_db": loss.snr_db,
        "bits_per_weight": loss.bits_per_weight,
    }


def _show(found: CheckpointLoss) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("tensor", overflow="fold")
    for title in ("relative error", "largest error", "SNR dB", "bits"):
        table.add_column(title, justify="right", no_wrap=True)
    for each in found.tensors:
        table.add_row(each.name, *_row(each.loss))
    table.add_row(f"all {len(found.tensors)}", *_row(found.loss), style="bold")
    console().print(table)
    bits = "" if found.bits_per_weight is None else f", {found.bits_per_weight:.2f} bits a weight"
    click.echo(
        f"In {found.four_bit.name.upper()} the model would take {found.size_bytes / 1e6:.1f} MB of "
        f"{found.source_bytes / 1e6:.1f} MB{bits}; {len(found.kept)} tensors stay as they are."
    )


def _row(loss: Loss) -> tuple[str, str, str, str]:
    return (
        _shown(loss.relative_error, ".4f"),
        f"{loss.max_abs_error:.4g}",
        _shown(loss.snr_db, ".2f"),
        _shown(loss.bits_per_weight, ".3f"),
    )


def _shown(figure: float | None, form: str) -> str:
    return "-" if figure is None else format(figure, form)
