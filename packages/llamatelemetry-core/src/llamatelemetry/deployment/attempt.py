"""One try to deploy, and the way back from wherever it came to."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import replace
from typing import Any, Final, Literal

from llamatelemetry.clock import Clock
from llamatelemetry.deployment.artifact import Proved, prove
from llamatelemetry.deployment.order import Order, order_of
from llamatelemetry.deployment.placing import HOST, Placed, place_model
from llamatelemetry.deployment.ports import ADDRESS, taken
from llamatelemetry.deployment.processes import private_bytes
from llamatelemetry.deployment.record import Deployment, ServeOptions, check_port
from llamatelemetry.deployment.smoke import ask_health, smoke_test
from llamatelemetry.deployment.state import DeploymentFolder, Ending
from llamatelemetry.deployment.stopping import runs, stop_server
from llamatelemetry.deployment.supervised import Candidate
from llamatelemetry.deployment.trace import DeployTrace, deploy_trace
from llamatelemetry.errors import (
    DeploymentError,
    DeploymentFailedError,
    LlamatelemetryError,
    PortTakenError,
    SmokeTestError,
)

_log: Final = logging.getLogger(__name__)
_LOST: Final = "it made room for another that is not there, and was not started again"
Rollback = Literal["none", "kept", "restarted", "failed"]


def carry_out(order: Order) -> tuple[Deployment, Candidate]:
    """Deploys, and returns what serves and the handle of its supervisor.

    Raises:
        InvalidValueError: The name or the port cannot be used.
        DeploymentBusyError: Somebody else is changing the deployment.
        DeploymentFailedError: It was not carried out.
    """
    folder = DeploymentFolder(order.name, order.home)
    check_port(order.port)
    deployment_id = _new_id(order.clock)
    with folder.locked(), deploy_trace(order.name, deployment_id, of_stage=order.of_stage) as trace:
        return _Attempt(order, folder, deployment_id, trace).make()


class _Attempt:
    """One try, and the way back from wherever it came to."""

    def __init__(self, order: Order, folder: DeploymentFolder, deployment_id: str, trace: DeployTrace) -> None:
        self._order = order
        self._folder = folder
        self._id = deployment_id
        self._trace = trace
        self._before = folder.current()
        self._stopped_before = False
        self._candidate: Candidate | None = None

    def make(self) -> tuple[Deployment, Candidate]:
        try:
            deployment, candidate = self._make()
        except BaseException as error:
            self._undo(error)
            raise
        self._trace.tell(outcome="serving", server_address=ADDRESS, server_port=deployment.port)
        return deployment, candidate

    def _make(self) -> tuple[Deployment, Candidate]:
        order, trace, before = self._order, self._trace, self._before
        with trace.doing("verify"):
            proved = self._prove()
        in_place = runs(before) and before is not None and order.port in {None, before.port}
        with trace.doing("plan") as step:
            placed = place_model(proved.model, order.options, _freed(before) if in_place else None)
            needed, free = sum(placed.needs.values()), sum(placed.free.values())
            step.tell(needed_bytes=needed, free_bytes=free if len(placed.free) == len(placed.needs) else None)
            port = before.port if in_place and before is not None else self._port()
        if in_place and before is not None:
            with trace.doing("stop"):
                self._stopped_before = True
                stop_server(self._folder, before, clock=order.clock)
                # Nobody wanted it gone for good: should this process be killed now, that is what is found.
                self._note_lost(before)
        candidate = self._candidate = self._trial(self._id, order.options, proved, placed, port)
        with trace.doing("start") as step:
            serving = candidate.start()
            step.tell(pid=None if serving.server is None else serving.server.pid)
        deployment = Deployment(
            name=order.name,
            id=self._id,
            artifact=proved.model,
            sha256=proved.sha256,
            standing=proved.standing,
            manifest_digest="" if proved.manifest is None else proved.manifest.digest,
            run_id=proved.origin.run_id,
            trace_id=proved.origin.trace_id,
            span_id=proved.origin.span_id,
            public_key=None if order.public_key is None else order.public_key.absolute(),
            model=serving.model,
            url=serving.url,
            port=serving.port,
            options=order.options,
            needs=placed.needs,
            supervisor=serving.supervisor,
            server=serving.server,
            log=candidate.log,
            started_ns=order.clock.time_ns(),
            deploy_trace_id=trace.trace_id,
        )
        self._ask(deployment)
        trace.step = "switch"
        self._folder.note(deployment)
        if order.detached:
            candidate.stay()
        self._candidate = None
        if before is not None and runs(before):
            self._retire(before)
        return deployment, candidate

    def _prove(self) -> Proved:
        proved = _proved(self._order)
        self._trace.tell(
            artifact_sha256=proved.sha256,
            manifest_digest=None if proved.manifest is None else proved.manifest.digest,
            standing=proved.standing,
        )
        self._trace.made_by(proved.origin, "verified")
        return proved

    def _port(self) -> int | None:
        """The port that is wanted, if it can be had: better known before anything is stopped."""
        port = self._order.port
        if port is None and self._before is not None:
            # Clients know it; where somebody else has it by now, any other will do.
            return self._before.port if not taken(self._before.port) else None
        if port and (reason := taken(port)):
            raise PortTakenError(port, reason)
        return port or None

    def _ask(self, deployment: Deployment) -> None:
        with self._trace.doing("smoke"):
            answer = smoke_test(deployment.url, backend=deployment.options.backend, sha256=deployment.sha256)
        if not deployment.span_id and answer.lineage is not None:
            # No manifest names the span, and the file itself may.
            self._trace.made_by(answer.lineage, answer.lineage.standing)
        with self._trace.doing("health"):
            if problem := ask_health(deployment.url, backend=deployment.options.backend).problem:
                raise SmokeTestError(problem)

    def _retire(self, before: Deployment) -> None:
        """The new one serves; that the old one cannot be ended must not take that back."""
        with self._trace.doing("stop"):
            try:
                stop_server(self._folder, before, clock=self._order.clock)
            except DeploymentError as error:
                _log.warning("%s", error)

    def _undo(self, error: BaseException) -> None:
        """Ends the one on trial and sees to it that the one before serves, then says which does."""
        step = self._trace.step
        if self._candidate is not None:
            self._candidate.abandon()
        came, url, now = self._go_back()
        self._trace.tell(outcome="failed", rollback=came)
        if isinstance(error, Exception):
            name = self._order.name
            raise DeploymentFailedError(name, str(step), error, rollback=came, url=url, now=now) from error

    def _go_back(self) -> tuple[Rollback, str, str]:
        before = self._before
        if before is None or not (self._stopped_before or runs(before)):
            return "none", "", "Nothing serves under this name"
        what = f"{before.model} ({before.sha256[:12]})"
        if not self._stopped_before:
            return "kept", before.url, f"{what} was not touched and serves at {before.url}"
        try:
            with self._trace.doing("roll_back"):
                again = self._restart(before)
        except LlamatelemetryError as error:
            self._note_lost(before)
            return "failed", "", f"{what} could not be started again: {error}. Nothing serves under this name"
        return "restarted", again.url, f"Rolled back: {what} serves again at {again.url}"

    def _note_lost(self, before: Deployment) -> None:
        self._folder.note_end(before.id, Ending(reason=_LOST, wanted=False, ended_ns=self._order.clock.time_ns()))

    def _restart(self, before: Deployment) -> Deployment:
        """Starts the one before again, if its file is still what it was."""
        stop_server(self._folder, before, clock=self._order.clock)  # It may be on its way out.
        order = order_of(before, port=before.port)
        proved = _proved(order)
        again_id = _new_id(self._order.clock)
        candidate = self._trial(again_id, order.options, proved, place_model(proved.model, order.options), before.port)
        try:
            serving = candidate.start()
            again = replace(
                before,
                id=again_id,
                supervisor=serving.supervisor,
                server=serving.server,
                log=candidate.log,
                started_ns=self._order.clock.time_ns(),
            )
            if problem := ask_health(again.url, backend=order.options.backend).problem:
                raise SmokeTestError(problem)
            self._folder.note(again)
            if self._order.detached:
                candidate.stay()
        except BaseException:
            candidate.abandon()
            raise
        return again

    def _trial(
        self, deployment_id: str, options: ServeOptions, proved: Proved, placed: Placed, port: int | None
    ) -> Candidate:
        told: dict[str, Any] = {
            "model": str(proved.model),
            "sha256": False,
            "threads": options.threads,
            "startup_timeout_s": options.startup_timeout_s,
            "port": port,
            **placed.backend_options(),
        }
        return Candidate(
            self._folder, deployment_id, backend=options.backend, options=told, detached=self._order.detached
        )


def _proved(order: Order) -> Proved:
    return prove(
        order.found(),
        public_key=order.public_key,
        allow_unverified=order.allow_unverified,
        expected_sha256=order.expected_sha256,
        progress=order.progress,
    )


def _freed(before: Deployment | None) -> dict[str, int]:
    """What will be free once the one before is stopped: what its plan has on GPUs, and what it holds of the host."""
    if before is None:
        return {}
    return {**before.needs, HOST: private_bytes(before.server)}


def _new_id(clock: Clock) -> str:
    """An id that sorts by time, to the millisecond, and that nothing else has: ``20261126T154500.123Z-9f31c2``."""
    seconds, nanoseconds = divmod(clock.time_ns(), 10**9)
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))
    return f"{moment}.{nanoseconds // 10**6:03d}Z-{secrets.token_hex(3)}"
