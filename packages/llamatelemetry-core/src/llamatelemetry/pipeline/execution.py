"""One stage, run or found to be made already."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from opentelemetry.trace import Link, SpanContext, TraceFlags

from llamatelemetry.artifacts.files import create_manifest
from llamatelemetry.artifacts.hashing import HashProgress
from llamatelemetry.artifacts.kept_provenance import check_provenance, keep_provenance
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.errors import ArtifactError, ArtifactMissingError, StageOutputError
from llamatelemetry.pipeline.given import Given
from llamatelemetry.pipeline.nodes import Node
from llamatelemetry.pipeline.progress import Listener, Progress, State, tell
from llamatelemetry.pipeline.recipe import Recipe, look_up, recipe_of
from llamatelemetry.pipeline.stage import Artifact, Lapsing, Stage, StageContext
from llamatelemetry.pipeline.stage_label import StageLabel
from llamatelemetry.pipeline.stage_trace import StageTrace
from llamatelemetry.pipeline.tracer import PipelineTracer

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in a run a stage stands, and what it is handed.

    Attributes:
        node: The stage at its place.
        number: Which it is, from 1.
        of: How many there are.
        tracer: The run's.
        store: Keeps what is made.
        folder: Does not exist yet; the stage's own while it runs.
        taken_again: Names of the inputs whose artifacts a later stage of the same name takes too.
        given: Those of its inputs that stand outside of the store.
        listener: Told how far it is.
    """

    node: Node
    number: int
    of: int
    tracer: PipelineTracer
    store: ArtifactStore
    folder: Path
    taken_again: Collection[str]
    given: Sequence[Given] = ()
    listener: Listener | None = None

    def tell(
        self,
        state: State,
        done: float | None = None,
        total: float | None = None,
        unit: str = "",
        *,
        loss: float | None = None,
        message: str = "",
    ) -> None:
        """Passes news on."""
        if self.listener is not None:
            tell(
                self.listener,
                Progress(
                    stage=self.node.id,
                    number=self.number,
                    of=self.of,
                    state=state,
                    done=done,
                    total=total,
                    unit=unit,
                    loss=loss,
                    message=message,
                ),
            )

    def tell_hashed(self, hashed: HashProgress) -> None:
        """Passes on how far hashing is."""
        self.tell("working", hashed.done_bytes, hashed.total_bytes, "B")


class Attempt:
    """What becomes of one stage. Its attributes say how far it came, also when :meth:`make` raises.

    Args:
        place: Where in the run it stands.
        inputs: What it is given.

    Attributes:
        recipe: All that decides the outcome.
        outputs: What it made, or what was there.
        reused: It was not run.
        damage: What was there and is not what it was, or does not hold any more.
        trace: Its span; None before it has one.
    """

    def __init__(self, place: Place, inputs: Mapping[str, Artifact]) -> None:
        self.recipe: Recipe = recipe_of(place.node.stage, inputs)
        self.outputs: Mapping[str, Artifact] = {}
        self.reused: bool = False
        self.damage: tuple[str, ...] = ()
        self.trace: StageTrace | None = None
        self._place = place
        self._inputs = inputs

    def make(self) -> None:
        """Takes what was made before, or runs the stage and keeps what it makes.

        Raises:
            Exception: Whatever the stage raises; nothing of it is kept.
            StageOutputError: It did not make what it promises.
            ArtifactError: What it made cannot be kept.
        """
        place = self._place
        begun_ns = place.tracer.clock.monotonic_ns()
        place.tell("started")
        kept = look_up(place.store, self.recipe, place.tell_hashed)
        lapsed = _lapsed(place.node.stage, kept.outputs)
        self.damage = (*kept.damage, *lapsed)
        for problem in self.damage:
            _log.warning("stage %s is run again: %s", place.node.id, problem)
        if kept.outputs is None or lapsed:
            self._run()
            place.tell("finished", message="; ".join(self.damage))
        else:
            self._reuse(kept.outputs, begun_ns)
            place.tell("reused")

    def _reuse(self, outputs: Mapping[str, Artifact], begun_ns: int) -> None:
        self.reused, self.outputs = True, outputs
        self._mend_provenance(outputs)
        label = self._label(reused=True, links=_links(outputs), begun_ns=begun_ns)
        with self._place.tracer.stage_of(label) as self.trace:
            self._name_outputs(self.trace)

    def _mend_provenance(self, outputs: Mapping[str, Artifact]) -> None:
        """Writes anew what is missing or damaged of it: the manifests, which were held to be whole, decide it."""
        store = self._place.store
        for artifact in outputs.values():
            try:
                check_provenance(store, artifact.manifest)
            except ArtifactError as error:
                if not isinstance(error, ArtifactMissingError):
                    self.damage = (*self.damage, str(error))
                    _log.warning("provenance is written again: %s", error)
                keep_provenance(store, artifact.manifest)

    def _run(self) -> None:
        place = self._place
        try:
            place.folder.mkdir(parents=True)
            with place.tracer.stage_of(self._label(reused=False)) as self.trace:
                self.trace.on_step = lambda steps, loss: place.tell("step", steps, loss=loss)
                context = StageContext(
                    run=place.tracer.run,
                    inputs=self._inputs,
                    folder=place.folder,
                    # No id begins with a dot.
                    shared=place.folder.with_name(f".{place.node.stage.name}"),
                    taken_again=place.taken_again,
                    trace=self.trace,
                    tell=lambda done, total, unit: place.tell("working", done, total, unit),
                )
                made = place.node.stage.run(context)
                for each in place.given:
                    each.check_unchanged()
                self.outputs = self._keep(self._checked(made), self.trace)
                self._name_outputs(self.trace)
        finally:
            shutil.rmtree(place.folder, ignore_errors=True)

    def _label(self, *, reused: bool, links: Sequence[Link] = (), begun_ns: int | None = None) -> StageLabel:
        stage = self._place.node.stage
        return StageLabel(
            name=stage.name,
            step_id=self._place.node.id,
            version=stage.version,
            key=self.recipe.key,
            reused=reused,
            parameters=stage.parameters,
            inputs=tuple(f"{parent.role}={parent.content_digest}" for parent in self.recipe.parents),
            links=links,
            begun_ns=begun_ns,
        )

    def _checked(self, made: object) -> dict[str, Path]:
        """What a stage returned, once it is what the stage promises."""
        node, folder = self._place.node, self._place.folder.resolve()
        promised = [port.name for port in node.stage.outputs]
        if made is None and not promised:
            return {}
        fix = f"return {{{', '.join(f'{name!r}: path' for name in promised)}}}"
        if not isinstance(made, Mapping):
            raise StageOutputError(node.id, f"returned {type(made).__name__}", fix)
        if set(made) != set(promised):
            raise StageOutputError(node.id, f"returned {', '.join(map(repr, made)) or 'nothing'}", fix)
        paths: dict[str, Path] = {}
        for name in promised:
            if not isinstance(made[name], Path):
                raise StageOutputError(node.id, f"returned {made[name]!r} as {name!r}", "return a pathlib.Path")
            path = paths[name] = folder / made[name]
            if path == folder or not path.resolve().is_relative_to(folder):
                fix = "write each output to a file or folder of its own in context.folder"
                raise StageOutputError(node.id, f"made {name!r} elsewhere, at {path}", fix)
            for other, there in paths.items():
                if other != name and (path.is_relative_to(there) or there.is_relative_to(path)):
                    raise StageOutputError(node.id, f"made {name!r} within {other!r}", "keep outputs apart")
        return paths

    def _keep(self, paths: Mapping[str, Path], trace: StageTrace) -> dict[str, Artifact]:
        """Hashes all outputs, then takes them into the store."""
        place, recipe = self._place, self.recipe
        manifests = {
            port.name: create_manifest(
                paths[port.name],
                kind=port.kind,
                parents=recipe.parents,
                origin=trace.origin(recipe.made_by(port.name)),
                parameters=recipe.stage.parameters,
                tools=recipe.tools,
                clock=place.tracer.clock,
                progress=place.tell_hashed,
            )
            for port in recipe.stage.outputs
        }
        kept = {
            name: Artifact(path=place.store.add(manifest, paths[name], move=True), manifest=manifest)
            for name, manifest in manifests.items()
        }
        for manifest in manifests.values():
            keep_provenance(place.store, manifest)
        return kept

    def _name_outputs(self, trace: StageTrace) -> None:
        for name, artifact in self.outputs.items():
            trace.output(name, artifact.manifest.content_digest)


def _lapsed(stage: Stage, outputs: Mapping[str, Artifact] | None) -> tuple[str, ...]:
    """Why what is there does not hold any more, if that is so and the stage can tell."""
    reason = stage.lapsed(outputs) if outputs is not None and isinstance(stage, Lapsing) else ""
    return (reason,) if reason else ()


def _links(outputs: Mapping[str, Artifact]) -> list[Link]:
    """To the spans that made what is used again, each once."""
    spans = {(each.manifest.origin.trace_id, each.manifest.origin.span_id) for each in outputs.values()}
    return [
        Link(SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(1)))
        for trace_id, span_id in sorted(spans)
        if span_id
    ]
