"""The verb ``export-gguf``: a checkpoint as one file for llama.cpp."""

from __future__ import annotations

from pathlib import Path

import click

from llamatelemetry.cli.output import examples, json_option, print_json
from llamatelemetry.quantization.byte_progress import byte_progress
from llamatelemetry.quantization.converting import CONVERTED_TYPES, ConvertedModel, convert


@click.command(
    "export-gguf",
    epilog=examples(
        "llamatelemetry export-gguf ./smollm2 smollm2-f16.gguf",
        "llamatelemetry export-gguf ./smollm2 smollm2-bf16.gguf --type BF16 --json",
    ),
)
@click.argument("source", metavar="FOLDER", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "-t", "--type", "file_type", default="F16", show_default=True, metavar="TYPE", help=", ".join(CONVERTED_TYPES) + "."
)
@click.option("--name", help="What the file calls the model; the folder's name when not given.")
@click.option("--threads", type=int, help="CPU threads to compute with; all there are when not given.")
@json_option
def export_gguf(
    source: Path, target: Path, *, file_type: str, name: str | None, threads: int | None, as_json: bool
) -> None:
    """Make a GGUF file of a Hugging Face checkpoint.

    FOLDER has config.json, safetensors and a tokenizer in it, as transformers saves them. OUT appears when it is
    whole, and takes the place of a file of that name.
    """
    with byte_progress("Converting") as advance:
        made = convert(source, target, file_type=file_type, name=name, threads=threads, on_progress=advance)
    if as_json:
        print_json(_figures(made))
    else:
        types = ", ".join(f"{count} {kind}" for kind, count in made.tensor_types.items())
        click.echo(
            f"{made.path} is {made.architecture} in {made.file_type}: {made.size_bytes / 1e6:.1f} MB "
            f"of {made.source_bytes / 1e6:.1f} MB of weights. Tensors: {types}."
        )


def _figures(made: ConvertedModel) -> dict[str, object]:
    return {
        "path": str(made.path),
        "architecture": made.architecture,
        "type": made.file_type,
        "size_bytes": made.size_bytes,
        "source_bytes": made.source_bytes,
        "tensor_types": dict(made.tensor_types),
    }
