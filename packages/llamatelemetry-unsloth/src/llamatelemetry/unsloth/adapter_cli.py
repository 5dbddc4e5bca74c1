"""The verb ``adapter``: what an adapter is."""

from __future__ import annotations

from pathlib import Path

import click

from llamatelemetry.cli.output import examples, json_option, print_json
from llamatelemetry.unsloth.adapter import Adapter, read_adapter


@click.command(
    epilog=examples("llamatelemetry adapter ./stories-lora", "llamatelemetry adapter ./stories-lora --json"),
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@json_option
def adapter(folder: Path, *, as_json: bool) -> None:
    """Say what a LoRA adapter is.

    DIR has adapter_config.json and adapter_model.safetensors in it, as PEFT and unsloth save them. Nothing is
    loaded, and torch need not be installed.
    """
    found = read_adapter(folder)
    if as_json:
        print_json(_figures(found))
    else:
        click.echo("\n".join(_lines(found)))


def _figures(found: Adapter) -> dict[str, object]:
    return {
        "path": str(found.path),
        "base_model": found.base_model,
        "task": found.task,
        "rank": found.rank,
        "alpha": found.alpha,
        "scale": found.scale,
        "dropout": found.dropout,
        "rslora": found.rslora,
        "dora": found.dora,
        "targets": list(found.targets),
        "layers": len(found.layers),
        "parameters": found.parameters,
        "target_parameters": dict(found.target_parameters),
        "trained_whole": list(found.trained_whole),
        "ranks": dict(found.ranks),
        "dtypes": list(found.dtypes),
        "size_bytes": found.size_bytes,
        "peft_version": found.peft_version,
    }


def _lines(found: Adapter) -> list[str]:
    kind = "DoRA" if found.dora else "LoRA"
    rooted = ", by the root of the rank" if found.rslora else ""
    dtypes = " and ".join(found.dtypes)
    lines = [
        f"{found.path} is a {kind} adapter of {found.base_model or 'a model that it does not name'}.",
        f"  rank        {found.rank}, alpha {found.alpha:g}, scale {found.scale:g}{rooted}",
        f"  layers      {len(found.layers)}: {', '.join(found.targets)}",
        f"  parameters  {found.parameters:,} in {dtypes}, {found.size_bytes / 1e6:.1f} MB",
    ]
    lines += [f"    {name:<20}{count:>14,}" for name, count in found.target_parameters.items()]
    if found.ranks:
        lines.append(f"  other ranks {', '.join(f'{name} {rank}' for name, rank in found.ranks.items())}")
    if found.trained_whole:
        lines.append(f"  whole       {', '.join(found.trained_whole)}")
    return lines
