"""The stage ``deploy`` of pipelines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from llamatelemetry.deployment.artifact import Found, described
from llamatelemetry.deployment.attempt import carry_out
from llamatelemetry.deployment.order import Order
from llamatelemetry.deployment.record import DEFAULT_NAME, ServeOptions, check_name, check_port
from llamatelemetry.deployment.standing import status
from llamatelemetry.deployment.state import read_deployment
from llamatelemetry.errors import LlamatelemetryError
from llamatelemetry.pipeline.stage import Artifact, Port, StageContext

_RECORD: Final = "deployment.json"


class DeployStage:
    """Puts a model behind a server that goes on when the pipeline ends. What it makes is the record of that.

    While the server serves this model it is not run again, and it is if the server ended.

    Args:
        name: What to call the deployment.
        port: Port on 127.0.0.1; 0 for a free one. Where left out, the one before keeps its port for the new
            one, and the first has a free one.
        context_length: Tokens that one slot holds; 4096, or what the model was trained on if less.
        slots: Requests that run at once.
        threads: CPU threads to compute with; chosen from the cores at hand where left out.
        gpu_layers: Layers on GPUs: ``all``, ``auto`` for what fits, or a number.
        backend: Name of the registered backend that starts the server.

    Raises:
        InvalidValueError: A value cannot be used.
    """

    name = "deploy"
    version = "1"
    inputs: tuple[Port, ...] = (Port(name="model", kind="gguf", help="The model to serve."),)
    outputs: tuple[Port, ...] = (Port(name="deployment", kind="deployment", help="What serves where, as JSON."),)
    tools: Mapping[str, str] = {}

    def __init__(
        self,
        name: str = DEFAULT_NAME,
        *,
        port: int | None = None,
        context_length: int | None = None,
        slots: int = 4,
        threads: int | None = None,
        gpu_layers: int | Literal["all", "auto"] = "all",
        backend: str = "llamacpp",
    ) -> None:
        self._deployment = check_name(name)
        self._port = check_port(port)
        self._options = ServeOptions(
            context_length=context_length, slots=slots, threads=threads, gpu_layers=gpu_layers, backend=backend
        )
        self.parameters: Mapping[str, Any] = {
            "name": name,
            "port": port,
            "context_length": context_length,
            "slots": slots,
            "threads": threads,
            "gpu_layers": gpu_layers,
            "backend": backend,
        }

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Deploys. On a failure, what served before serves again."""
        model = context.inputs["model"]
        order = Order(
            found=lambda: _found(model),
            name=self._deployment,
            port=self._port,
            options=self._options,
            of_stage=True,
            progress=lambda hashed: context.progress(hashed.done_bytes, hashed.total_bytes, "B"),
        )
        deployment, _ = carry_out(order)
        made = context.folder / _RECORD
        made.write_text(json.dumps(deployment.to_data(), indent=1) + "\n")
        return {"deployment": made}

    def lapsed(self, outputs: Mapping[str, Artifact]) -> str:
        """Why the server that was started does not serve any more; empty where it does."""
        path = outputs["deployment"].path
        try:
            made = read_deployment(path)
            now = status(self._deployment)
        except (LlamatelemetryError, OSError) as error:
            return f"deployment {self._deployment!r} is not known here: {error}"
        if now.state != "serving":
            return f"deployment {self._deployment!r} is {now.state}" + (f": {now.problem}" if now.problem else "")
        if made is None:
            return f"its record {path} is not there"
        if (now.deployment.sha256, now.deployment.options) != (made.sha256, made.options):
            return (
                f"deployment {self._deployment!r} serves {now.deployment.model} ({now.deployment.sha256[:12]}) by now"
            )
        if self._port not in {None, 0, now.deployment.port}:
            return f"deployment {self._deployment!r} is at port {now.deployment.port} by now"
        return ""


def _found(model: Artifact) -> Found:
    """The model that a pipeline hands over, with the manifest that it has there."""
    return described(model.path, model.manifest)
