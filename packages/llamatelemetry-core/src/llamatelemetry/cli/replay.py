"""``llamatelemetry replay``: telemetry files into any OTLP/HTTP endpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from llamatelemetry.cli.output import examples, json_option, print_json, progress_console
from llamatelemetry.otel.replay import ReplaySummary
from llamatelemetry.otel.replay import replay as deliver
from llamatelemetry.readers import without_credentials


def _url(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise click.BadParameter("give a URL such as http://127.0.0.1:4318")
    return value


def _headers(_context: click.Context, _parameter: click.Parameter, value: Sequence[str]) -> dict[str, str]:
    headers = {}
    for item in value:
        name, equals, content = item.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{item!r} is not NAME=VALUE")
        headers[name] = content
    return headers


@click.command(
    epilog=examples(
        "llamatelemetry replay llamatelemetry-data --to http://127.0.0.1:4318",
        "llamatelemetry replay traces.jsonl --to https://collector.example -H authorization=Bearer...",
    )
)
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--to", "url", required=True, callback=_url, help="Base URL of the OTLP/HTTP endpoint.")
@click.option(
    "-H", "--header", "headers", multiple=True, callback=_headers, help="NAME=VALUE to send along; repeatable."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds an answer may take.",
)
@json_option
def replay(file: Path, url: str, headers: dict[str, str], timeout: float, *, as_json: bool) -> None:
    """Send telemetry files to an OTLP/HTTP endpoint.

    FILE is a .jsonl file, or a folder whose .jsonl files are all sent. Lines go in order, and each is
    accepted before the next is sent; the first that is not ends it with exit code 1 and says where.
    Files stay as they are, and sending them twice delivers them twice.
    """
    console = progress_console()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("Sending", total=_size(file))

        def advance(summary: ReplaySummary) -> None:
            bar.update(task, completed=summary.bytes)

        summary = deliver(file, url, headers=headers, timeout_s=timeout, progress=advance)
    if as_json:
        print_json({"to": without_credentials(url), **asdict(summary)})
    else:
        click.echo(f"Delivered {summary} to {without_credentials(url)}.")


def _size(path: Path) -> int:
    """In bytes. What cannot be looked at, or is being renamed by who writes it, is for the replay to say."""
    size = 0
    for file in path.glob("*.jsonl") if path.is_dir() else [path]:
        with contextlib.suppress(OSError):
            size += file.stat().st_size
    return size
