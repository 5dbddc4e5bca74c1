"""``llamatelemetry pipeline``: runs a pipeline that a file describes, and shows stages and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from llamatelemetry.artifacts.kept_provenance import check_provenance
from llamatelemetry.artifacts.signing import check_signer, sign_described
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.cli.output import console, examples, json_option, key_password_option, plugin_log_off, print_json
from llamatelemetry.cli.pipeline_view import run_view, stage_data, stage_view, stages_view, telemetry_line, wires_view
from llamatelemetry.cli.stores_here import store_here
from llamatelemetry.errors import ArtifactError, PipelineError
from llamatelemetry.pipeline.definition import read_definition
from llamatelemetry.pipeline.outcome import RunRecord, read_record, run_ids
from llamatelemetry.pipeline.runner import RUNS, WORK
from llamatelemetry.pipeline.work import is_going_on
from llamatelemetry.plugins import load_plugins

DAMAGED: Final = 1
_FILE: Final = """\b
A pipeline's file:
  [pipeline]
  name = "smollm2"
  store = "artifacts"                # where what is made is kept
  [inputs]
  checkpoint = "smollm2"             # what it is given; paths go from the file's folder
  [[stage]]
  use = "export_gguf"                # a name that `llamatelemetry pipeline stages` lists
  id = "f16"                         # its name here
  parameters = { file_type = "F16" }
  [[stage]]
  use = "quantize"
  inputs = { model = "f16.model" }   # needed only where several would fit
  parameters = { file_type = "Q4_K_M" }
"""


@click.group(
    epilog=examples(
        "llamatelemetry pipeline stages",
        "llamatelemetry pipeline stages quantize",
        "llamatelemetry pipeline run pipeline.toml",
        "llamatelemetry pipeline show",
    )
)
def pipeline() -> None:
    """Run stages that make artifacts out of artifacts, each traced and none run twice for the same."""


@pipeline.command(
    short_help="Run the pipeline that a file describes.",
    epilog=f"{_FILE}\n"
    + examples(
        "llamatelemetry pipeline run pipeline.toml",
        "llamatelemetry pipeline run pipeline.toml --dry-run",
        "llamatelemetry pipeline run pipeline.toml --sign key.pem",
        "llamatelemetry pipeline run pipeline.toml --store /data/artifacts --json",
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 llamatelemetry pipeline run pipeline.toml",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--store", type=click.Path(path_type=Path), help="Where what is made is kept, instead of the file's.")
@click.option("--run-id", help="Id of this run.  [default: a new one]")
@click.option(
    "--sign", "key", type=click.Path(path_type=Path), help="Sign all that the run made or reused, with this PEM key."
)
@key_password_option
@click.option("--dry-run", is_flag=True, help="Say where each input comes from, and run nothing.")
@json_option
def run(
    *,
    file: Path,
    store: Path | None,
    run_id: str | None,
    key: Path | None,
    password: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run the pipeline that FILE describes.

    Inputs and outputs are matched first, and what does not match is an error before anything runs. A
    stage whose outcome is in the store, whole, is not run again. After a failure, Ctrl-C or a power cut,
    the same command goes on with the stage that did not end; nothing half-made is kept. Exit code 1 if a
    stage fails.
    """
    if key is not None:
        check_signer(key)
    definition = read_definition(file)
    with plugin_log_off():
        made = definition.build(load_plugins().resolve_stage)
    wiring = definition.wire(made)
    if dry_run:
        if as_json:
            print_json({"pipeline": definition.about["name"], "inputs": wiring})
        else:
            console().print(wires_view(wiring))
        return
    # The verbs that only look do without the weight of these.
    from llamatelemetry import sdk
    from llamatelemetry.cli.pipeline_progress import PipelineBars

    context = definition.context(run_id)
    folder = store or definition.store
    settings = sdk.init()
    try:
        with PipelineBars(quiet=as_json) as bars:
            done = made.run(context, store=folder, inputs=definition.inputs, progress=bars.show)
        sdk.flush()
    finally:
        sdk.shutdown()
    if key is not None:
        for artifact in (
            done.artifacts[f"{stage.id}.{name}"] for stage in done.record.stages for name in stage.outputs
        ):
            sign_described(artifact.path, artifact.manifest, private_key=key, password=password)
    _show(done.record, folder, as_json=as_json)
    if not as_json and (line := telemetry_line(settings)):
        console().print(line)


@pipeline.command(
    short_help="List the stages there are, or explain one.",
    epilog=examples("llamatelemetry pipeline stages", "llamatelemetry pipeline stages quantize --json"),
)
@click.argument("name", required=False)
@json_option
def stages(name: str | None, *, as_json: bool) -> None:
    """List the stages there are; with NAME, what one of them takes, makes and can be told."""
    with plugin_log_off():
        plugins = load_plugins()
        if name is not None:
            data = stage_data(plugins.stages.get(name) if name in plugins.stages else None, plugins.resolve_stage(name))
            if as_json:
                print_json(data)
            else:
                console().print(stage_view(data))
            return
        registered = list(plugins.stages)
    if as_json:
        rows = [{"name": each.name, "summary": each.summary, "plugin": each.plugin} for each in registered]
        print_json({"stages": rows})
        return
    console().print(stages_view(registered))
    if not any(each.plugin for each in registered):
        click.echo("No installed plugin brings more. See llamatelemetry plugins.")


@pipeline.command(
    short_help="Show what came of a run.",
    epilog=examples(
        "llamatelemetry pipeline show",
        "llamatelemetry pipeline show 20261126T1545 --store artifacts",
        "llamatelemetry pipeline show --verify --json",
    ),
)
@click.argument("run", required=False)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    show_default="the one in the current folder",
    help="Where what was made is kept.",
)
@click.option("--verify", is_flag=True, help="Hold every artifact of the run to its manifest, byte by byte.")
@json_option
def show(run: str | None, store: Path | None, *, verify: bool, as_json: bool) -> int:
    """Show what came of RUN: its stages, what each cost and made, and the trace it is in.

    RUN is a run's id or the beginning of one; the latest where left out. Exit code 1 if --verify finds
    something that is missing or is not what it was.
    """
    store = store or store_here()
    folder = store / RUNS
    if run is None:
        known = run_ids(folder)
        if not known:
            raise PipelineError(f"no run is recorded in {folder}: say with --store where what was made is kept")
        run = known[-1]
    record = read_record(folder, run)
    problems = _problems(record, ArtifactStore(store)) if verify else None
    _show(record, store, as_json=as_json, problems=problems)
    return DAMAGED if problems else 0


def _show(record: RunRecord, store: Path, *, as_json: bool, problems: list[str] | None = None) -> None:
    state = record.state
    if state == "running" and not is_going_on(store / WORK, record.run_id):
        state = "lost"
    if as_json:
        checked = {} if problems is None else {"problems": problems}
        print_json({**record.to_data(), "state": state, "store": str(store), **checked})
    else:
        # Not folded here: paths are there to be copied.
        console().print(run_view(record, state, problems), soft_wrap=True)


def _problems(record: RunRecord, store: ArtifactStore) -> list[str]:
    found = []
    for stage in record.stages:
        for name, digest in stage.outputs.items():
            try:
                manifest = store.get(digest)
                store.verify(manifest)
                check_provenance(store, manifest)
            except ArtifactError as error:
                found.append(f"{stage.id}.{name}: {error}")
    return found
