"""``llamatelemetry deploy``: puts a model behind a server that stays, and looks after it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, Literal

import click

from llamatelemetry.cli.deploy_view import deployment_view, history_view, status_view, statuses_data
from llamatelemetry.cli.output import console, examples, json_option, plugin_log_off, print_json
from llamatelemetry.deployment.record import DEFAULT_NAME, Deployment, ServeOptions
from llamatelemetry.errors import DeploymentError, InvalidValueError

UNUSABLE: Final = 1
_name_option = click.option("--name", default=DEFAULT_NAME, show_default=True, help="The deployment.")


class _ArtifactOrVerb(click.Group):
    """A group whose first verb need not be written: ``deploy ARTIFACT`` is ``deploy start ARTIFACT``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the verb in where it was left out."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["start", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes both forms."""
        formatter.write_usage(ctx.command_path, "ARTIFACT [OPTIONS] | COMMAND [OPTIONS]")


@click.group(
    cls=_ArtifactOrVerb,
    epilog=examples(
        "llamatelemetry deploy model.gguf --name chat --port 8080",
        "llamatelemetry deploy start --help",
        "llamatelemetry deploy status",
        "llamatelemetry deploy rollback --name chat",
        "llamatelemetry deploy stop --name chat",
    ),
)
def deploy() -> None:
    """Put a model behind a server that stays, and look after it.

    The model is held to its manifest, planned onto this machine, served, asked something, and only then
    takes over from the one that served under the name before. If any of that fails, the one before serves
    again, or was never stopped.
    """


@deploy.command(
    short_help="Deploy a model; the same as without `start`.",
    epilog=examples(
        "llamatelemetry deploy model.gguf --name chat --port 8080",
        "llamatelemetry deploy model.gguf --name chat --port 0 --ctx 8192 --slots 8",
        "llamatelemetry deploy model.gguf.manifest.json --key key.pub.pem",
        "llamatelemetry deploy model.gguf --foreground",
    ),
)
@click.argument("artifact", type=click.Path(path_type=Path))
@_name_option
@click.option(
    "--port",
    type=int,
    help="Port on 127.0.0.1; 0 for a free one.  [default: that of the one before, or a free one]",
)
@click.option("--ctx", type=int, help="Tokens that one slot holds.  [default: 4096, or what the model was trained on]")
@click.option("--slots", type=int, default=4, show_default=True, help="Requests that run at once.")
@click.option("--threads", type=int, help="CPU threads to compute with.  [default: from the cores at hand]")
@click.option(
    "--gpu-layers", default="all", show_default=True, help="Layers on GPUs: all, auto for what fits, or a number."
)
@click.option("--key", type=click.Path(path_type=Path), help="Wants signatures that this public PEM key verifies.")
@click.option("--allow-unverified", is_flag=True, help="Serve a model that no manifest describes.")
@click.option("--foreground", is_flag=True, help="Stay, and stop it on Ctrl-C or SIGTERM: for containers.")
@json_option
def start(
    *,
    artifact: Path,
    name: str,
    port: int | None,
    ctx: int | None,
    slots: int,
    threads: int | None,
    gpu_layers: str,
    key: Path | None,
    allow_unverified: bool,
    foreground: bool,
    as_json: bool,
) -> int:
    """Deploy ARTIFACT: a GGUF file, its manifest, or a folder that holds one.

    The manifest stands beside the file or in the store that the file stands in. A file that is not what it
    says is never served; one that has none needs --allow-unverified. The server listens on 127.0.0.1 alone
    and goes on when this command ends.

    With another port, or 0, the one before serves until the new one has passed. On the same port it has to
    stop first, and is started again if the new one fails. Exit code 1 if anything fails.
    """
    # The verbs that only look do without the weight of these.
    from llamatelemetry import sdk
    from llamatelemetry.cli.hash_progress import hash_bar
    from llamatelemetry.deployment.artifact import find_artifact
    from llamatelemetry.deployment.attempt import carry_out
    from llamatelemetry.deployment.order import Order

    options = ServeOptions(context_length=ctx, slots=slots, threads=threads, gpu_layers=_layers(gpu_layers))
    sdk.init()
    try:
        with (
            plugin_log_off(),
            nullcontext(lambda _: None) if as_json else hash_bar(f"Verifying {artifact.name}") as bar,
        ):
            order = Order(
                found=lambda: find_artifact(artifact),
                name=name,
                port=port,
                options=options,
                public_key=key,
                allow_unverified=allow_unverified,
                detached=not foreground,
                progress=bar,
            )
            deployment, candidate = carry_out(order)
        sdk.flush()
        _show(deployment, as_json=as_json)
        if foreground:
            return _stay(deployment, candidate)
    finally:
        sdk.shutdown()
    return 0


@deploy.command(
    short_help="Say how deployments are, by asking them.",
    epilog=examples("llamatelemetry deploy status", "llamatelemetry deploy status --name chat --json"),
)
@click.option("--name", help="The deployment.  [default: all]")
@json_option
def status(name: str | None, *, as_json: bool) -> int:
    """Say how a deployment is: serving, unhealthy, dead, stopped, or unknown without its backend's plugin.

    Its processes are looked for and its server is asked. Exit code 1 if one neither serves nor was stopped.
    """
    from llamatelemetry.deployment.standing import status as ask
    from llamatelemetry.deployment.standing import statuses

    with plugin_log_off():
        found = statuses() if name is None else (ask(name),)
    if as_json:
        print_json(found[0].to_data() if name is not None else statuses_data(found))
    elif not found:
        click.echo("Nothing is deployed. See llamatelemetry deploy --help.")
    for each in () if as_json else found:
        console().print(status_view(each), soft_wrap=True)
    return UNUSABLE if any(each.state not in {"serving", "stopped"} for each in found) else 0


@deploy.command(epilog=examples("llamatelemetry deploy stop --name chat"))
@_name_option
@click.option("--grace", type=float, default=10.0, show_default=True, help="Seconds before it is killed.")
@json_option
def stop(name: str, grace: float, *, as_json: bool) -> None:
    """Stop a deployment, and return when its processes are gone. Stopping it again is no error."""
    from llamatelemetry.deployment.stopping import stop as end

    stopped = end(name, grace_s=grace)
    if as_json:
        print_json({"name": name, "state": "stopped", "id": stopped.id})
    else:
        click.echo(f"{name} is stopped: {stopped.model} ({stopped.sha256[:12]}) no longer serves at {stopped.url}")


@deploy.command(epilog=examples("llamatelemetry deploy rollback --name chat"))
@_name_option
@json_option
def rollback(name: str, *, as_json: bool) -> None:
    """Deploy again what was deployed before the current one, as it was deployed then.

    Its file is held to the digest that it had. Doing it twice leads back.
    """
    from llamatelemetry import sdk
    from llamatelemetry.deployment.deploying import rollback as go_back

    sdk.init()
    try:
        with plugin_log_off():
            deployment = go_back(name)
        sdk.flush()
    finally:
        sdk.shutdown()
    _show(deployment, as_json=as_json)


@deploy.command(epilog=examples("llamatelemetry deploy history --name chat"))
@_name_option
@json_option
def history(name: str, *, as_json: bool) -> None:
    """List what was deployed under a name and passed, the latest last."""
    from llamatelemetry.deployment.standing import history as remembered

    found = remembered(name)
    if as_json:
        print_json({"deployments": [each.to_data() for each in found]})
    else:
        console().print(history_view(found), soft_wrap=True)


def _show(deployment: Deployment, *, as_json: bool) -> None:
    if as_json:
        print_json(deployment.to_data())
    else:
        console().print(deployment_view(deployment), soft_wrap=True)


def _stay(deployment: Deployment, candidate: Any) -> int:
    """Until the server ends by itself, or somebody wants it to."""
    try:
        code: int = candidate.wait()
    finally:
        candidate.abandon()
    if code:
        from llamatelemetry.deployment.standing import status as ask

        raise DeploymentError(f"deployment {deployment.name!r} ended: {ask(deployment.name).problem}")
    return 0


def _layers(text: str) -> int | Literal["all", "auto"]:
    match text:
        case "all" | "auto":
            return text
        case _ if text.isdecimal():
            return int(text)
        case _:
            raise InvalidValueError("gpu_layers", text, "give all, auto or a number")
