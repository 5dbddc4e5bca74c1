"""The verb ``quantize``: a smaller file of the same model."""

from __future__ import annotations

from pathlib import Path

import click

from llamatelemetry.cli.output import examples, json_option, print_json
from llamatelemetry.quantization.byte_progress import byte_progress
from llamatelemetry.quantization.file_types import FILE_TYPES
from llamatelemetry.quantization.quantizing import QuantizedModel
from llamatelemetry.quantization.quantizing import quantize as make_smaller


def _override(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> list[tuple[str, str]]:
    overrides = []
    for text in given:
        pattern, equals, name = text.rpartition("=")
        if not pattern or not equals or not name:
            raise click.BadParameter(f"{text!r} is not PATTERN=TYPE")
        overrides.append((pattern, name))
    return overrides


@click.command(
    epilog=examples(
        "llamatelemetry quantize model-f16.gguf model-q4.gguf --type Q4_K_M",
        "llamatelemetry quantize model-f16.gguf model-iq2.gguf --type IQ2_XS --imatrix imatrix.gguf --json",
    )
)
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "-t", "--type", "file_type", required=True, metavar="TYPE", help=f"What to make: {', '.join(FILE_TYPES)}."
)
@click.option("--imatrix", type=click.Path(path_type=Path), help="An importance matrix, as llama-imatrix writes it.")
@click.option("--threads", type=int, help="CPU threads to compute with; all there are when not given.")
@click.option(
    "--override",
    "overrides",
    multiple=True,
    callback=_override,
    metavar="PATTERN=TYPE",
    help="A tensor type for weights whose names the pattern is found in; repeatable, the first counts.",
)
@click.option("--allow-requantize", is_flag=True, help="Take weights that were quantized before; they lose more.")
@json_option
def quantize(
    source: Path,
    target: Path,
    *,
    file_type: str,
    imatrix: Path | None,
    threads: int | None,
    overrides: list[tuple[str, str]],
    allow_requantize: bool,
    as_json: bool,
) -> None:
    """Make a GGUF model smaller.

    IN is a GGUF file, best of F16 or BF16. OUT is the file that llama.cpp's llama-quantize would write, byte
    for byte. It appears when it is whole, and takes the place of a file of that name.
    """
    with byte_progress("Quantizing") as advance:
        made = make_smaller(
            source,
            target,
            file_type=file_type,
            imatrix=imatrix,
            threads=threads,
            overrides=overrides,
            allow_requantize=allow_requantize,
            on_progress=advance,
        )
    if as_json:
        print_json(_figures(made))
    else:
        _show(made)


def _figures(made: QuantizedModel) -> dict[str, object]:
    return {
        "path": str(made.path),
        "type": made.file_type,
        "size_bytes": made.size_bytes,
        "source_bytes": made.source_bytes,
        "bits_per_weight": round(made.bits_per_weight, 4),
        "tensor_types": dict(made.tensor_types),
        "replaced": {name: {"wanted": wanted, "got": got} for name, (wanted, got) in made.replaced.items()},
    }


def _show(made: QuantizedModel) -> None:
    types = ", ".join(f"{count} {name}" for name, count in made.tensor_types.items())
    click.echo(
        f"{made.path} is {made.file_type}: {made.size_bytes / 1e6:.1f} MB of {made.source_bytes / 1e6:.1f} MB, "
        f"{made.bits_per_weight:.2f} bits a weight. Tensors: {types}."
    )
    if made.replaced:
        click.echo(
            f"{len(made.replaced)} tensors have another type than the mix has for them: "
            "their rows do not fit its blocks, as with llama-quantize."
        )
