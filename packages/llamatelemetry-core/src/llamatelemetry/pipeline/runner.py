"""Runs stages one after another, and goes on where an earlier run stopped."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from llamatelemetry.artifacts.hashing import HashProgress
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.errors import ArtifactError, PipelineDefinitionError, StageFailedError
from llamatelemetry.pipeline.context import PipelineContext
from llamatelemetry.pipeline.execution import Attempt, Place
from llamatelemetry.pipeline.failure import error_type_of
from llamatelemetry.pipeline.given import Given, take_in
from llamatelemetry.pipeline.given_before import changes_since
from llamatelemetry.pipeline.nodes import GIVEN, Node, nodes_of
from llamatelemetry.pipeline.outcome import RunRecord, RunState, StageOutcome, StageState, write_record
from llamatelemetry.pipeline.progress import Listener, Progress, tell
from llamatelemetry.pipeline.signals import ends_softly
from llamatelemetry.pipeline.stage import Artifact, Stage
from llamatelemetry.pipeline.tracer import PipelineTracer
from llamatelemetry.pipeline.wiring import Wiring, kinds_given, wire
from llamatelemetry.pipeline.work import work_folder

_log: Final = logging.getLogger(__name__)
RUNS: Final = "runs"
WORK: Final = "work"
"""Folders in a store, of records and of what is being made."""
_ABOUT: Final = ("base_model", "adapter", "dataset", "quantization", "artifact", "git_commit", "parameters")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRun:
    """What a pipeline made.

    Attributes:
        record: What came of each stage.
        artifacts: What was given and made: ``inputs.model`` or ``q4.model`` to the artifact.
    """

    record: RunRecord
    artifacts: Mapping[str, Artifact]


class Pipeline:
    """Stages in the order in which they run.

    Args:
        stages: Stages, or :class:`Node` for one that needs an id of its own or wires.

    Raises:
        PipelineDefinitionError: There is none, one cannot be used, or two have one id.

    Attributes:
        nodes: The stages at their places.
    """

    def __init__(self, stages: Sequence[Stage | Node]) -> None:
        self.nodes: tuple[Node, ...] = nodes_of(stages)

    def wire(self, given: Mapping[str, str | None] | None = None) -> Wiring:
        """Where every input comes from; nothing is run.

        Args:
            given: What the pipeline would be given: names to kinds, None for any.

        Raises:
            StageInputError: An input has no source, several, or one of another kind.
            PipelineDefinitionError: Something that is given goes nowhere.
        """
        wiring = wire(self.nodes, given or {})
        taken = kinds_given(self.nodes, wiring)
        if unused := [name for name in given or {} if name not in taken]:
            raise PipelineDefinitionError(f"{GIVEN}.{unused[0]}", unused[0], "no stage takes it; leave it out")
        return wiring

    def run(
        self,
        context: PipelineContext | str,
        *,
        store: ArtifactStore | Path | str,
        inputs: Mapping[str, Path | str] | None = None,
        progress: Listener | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> PipelineRun:
        """Runs every stage whose outcome the store does not have; the others are skipped, and say so.

        A stage that fails ends the run. What was made before it is kept, so that the next run goes on from
        there, also after this process was killed. In the main thread, SIGTERM ends the run as Ctrl-C does
        unless the program has a handler of its own; it raises SystemExit then.

        Args:
            context: What the run is about, or only the pipeline's name.
            store: Keeps what is made.
            inputs: What the pipeline is given: names to files or folders.
            progress: Told how far it is.
            clock: Where time comes from.

        Raises:
            StageInputError: An input has no source, several, or one of another kind. Nothing was run.
            PipelineDefinitionError: Something else is wrong with the pipeline. Nothing was run.
            StageFailedError: A stage raised, or did not make what it promises.
            ArtifactError: What is given is not there or not what it was, or the store cannot be used.
        """
        given = {name: Path(path) for name, path in (inputs or {}).items()}
        wiring = self.wire(dict.fromkeys(given))
        kinds = kinds_given(self.nodes, wiring)
        # A stage may go to another folder.
        kept = ArtifactStore((store.folder if isinstance(store, ArtifactStore) else Path(store)).absolute())
        tracer = PipelineTracer(context, clock=clock)
        with ends_softly(), work_folder(kept.folder / WORK, tracer.run.run_id) as folder:
            going = _Going(tracer=tracer, store=kept, folder=folder, listener=progress)
            return going.run(self.nodes, wiring, given, kinds)


class _Going:
    """A run while it goes on."""

    def __init__(
        self, *, tracer: PipelineTracer, store: ArtifactStore, folder: Path, listener: Listener | None
    ) -> None:
        self._tracer = tracer
        self._store = store
        self._folder = folder
        self._listener = listener
        self._artifacts: dict[str, Artifact] = {}
        self._given: dict[str, Given] = {}
        self._attempts: list[Attempt] = []
        run = tracer.run
        self._record = RunRecord(
            run_id=run.run_id,
            pipeline=run.name,
            state="running",
            about={name: getattr(run, name) for name in _ABOUT if getattr(run, name)},
            started_ns=tracer.clock.time_ns(),
        )

    def run(
        self, nodes: Sequence[Node], wiring: Wiring, given: Mapping[str, Path], kinds: Mapping[str, str]
    ) -> PipelineRun:
        self._record = replace(self._record, given={name: os.fspath(path.resolve()) for name, path in given.items()})
        write_record(self._store.folder / RUNS, self._record)
        state: RunState = "interrupted"
        try:
            with self._tracer:
                self._note(trace_id=self._tracer.trace_id)
                for name, path in given.items():
                    progress = partial(self._tell_given, len(nodes))
                    taken = take_in(name, path, kinds[name], store=self._store, progress=progress)
                    self._given[f"{GIVEN}.{name}"] = taken
                    self._artifacts[f"{GIVEN}.{name}"] = taken.artifact
                self._note_given(given)
                for number, node in enumerate(nodes, start=1):
                    self._make(node, wiring[node.id], number, len(nodes), _taken_again(nodes[number - 1 :], wiring))
            state = "succeeded"
        except BaseException as error:
            state = "failed" if isinstance(error, Exception) else "interrupted"
            self._note(error_type=error_type_of(error), error=str(error) or type(error).__name__)
            raise
        finally:
            self._settle()
            self._note(state=state, ended_ns=self._tracer.clock.time_ns())
        return PipelineRun(record=self._record, artifacts=self._artifacts)

    def _note_given(self, given: Collection[str]) -> None:
        """Puts down what was given, and says what of it is another than it was: all made of it is made anew."""
        manifests = {name: self._artifacts[f"{GIVEN}.{name}"].manifest for name in given}
        changes = changes_since(self._store, self._store.folder / RUNS, self._record, manifests)
        for each in changes:
            _log.warning("%s", each)
        self._note(given_digests={name: manifest.digest for name, manifest in manifests.items()}, changes=changes)

    def _make(self, node: Node, wires: Mapping[str, str], number: int, of: int, taken_again: Collection[str]) -> None:
        place = Place(
            node=node,
            number=number,
            of=of,
            tracer=self._tracer,
            store=self._store,
            folder=self._folder / node.id,
            taken_again=taken_again,
            given=tuple(self._given[source] for source in wires.values() if source in self._given),
            listener=self._listener,
        )
        attempt = Attempt(place, {name: self._artifacts[source] for name, source in wires.items()})
        self._attempts.append(attempt)
        self._note(stages=(*self._record.stages, _outcome(node, wires, attempt, "running")))
        try:
            attempt.make()
        except BaseException as error:
            state: Literal["failed", "interrupted"] = "failed" if isinstance(error, Exception) else "interrupted"
            self._note_last(_outcome(node, wires, attempt, state, error))
            place.tell(state, message=f"{type(error).__name__}: {error}")
            if isinstance(error, Exception):
                raise StageFailedError(node.id, self._record.run_id, error) from error
            raise
        self._artifacts.update({f"{node.id}.{name}": artifact for name, artifact in attempt.outputs.items()})
        self._note_last(_outcome(node, wires, attempt, "reused" if attempt.reused else "ran"))

    def _settle(self) -> None:
        """Adds what is known only a moment after a stage's end: what GPUs did."""
        stages = list(self._record.stages)
        for index, attempt in enumerate(self._attempts):
            facts = None if attempt.trace is None else attempt.trace.gpu_facts()
            if facts is not None:
                stages[index] = replace(stages[index], gpu_energy_j=facts.energy_j)
        self._record = replace(self._record, stages=tuple(stages))

    def _note_last(self, outcome: StageOutcome) -> None:
        self._note(stages=(*self._record.stages[:-1], outcome))

    def _note(self, **changed: Any) -> None:
        """Writes what is new; what was made matters more than the record of it, whose disk may be full."""
        self._record = replace(self._record, **changed)
        try:
            write_record(self._store.folder / RUNS, self._record)
        except ArtifactError as error:
            _log.warning("the record of run %s is behind: %s", self._record.run_id, error)

    def _tell_given(self, stages: int, hashed: HashProgress) -> None:
        news = Progress(
            stage="", number=0, of=stages, state="working", done=hashed.done_bytes, total=hashed.total_bytes, unit="B"
        )
        if self._listener is not None:
            tell(self._listener, news)


def _taken_again(nodes: Sequence[Node], wiring: Wiring) -> frozenset[str]:
    """Inputs of the first of these stages that are inputs of another of its name too."""
    first, *later = nodes
    taken = {source for node in later if node.stage.name == first.stage.name for source in wiring[node.id].values()}
    return frozenset(name for name, source in wiring[first.id].items() if source in taken)


def _outcome(
    node: Node, wires: Mapping[str, str], attempt: Attempt, state: StageState, error: BaseException | None = None
) -> StageOutcome:
    trace = attempt.trace
    origin = None if trace is None else trace.origin()
    ran = trace is not None and not attempt.reused
    return StageOutcome(
        id=node.id,
        stage=node.stage.name,
        version=node.stage.version,
        state=state,
        key=attempt.recipe.key,
        inputs=wires,
        outputs={name: artifact.manifest.digest for name, artifact in attempt.outputs.items()},
        paths={name: os.fspath(artifact.path) for name, artifact in attempt.outputs.items()},
        resources=trace.resources if ran and trace else None,
        steps=trace.steps.count or None if ran and trace else None,
        loss_first=_finite(trace.steps.loss_first) if ran and trace else None,
        loss_last=_finite(trace.steps.loss_last) if ran and trace else None,
        trace_id="" if origin is None else origin.trace_id,
        span_id="" if origin is None else origin.span_id,
        error_type="" if error is None else error_type_of(error),
        error="" if error is None else str(error) or type(error).__name__,
        damage=attempt.damage,
    )


def _finite(number: float | None) -> float | None:
    """JSON has no NaN; the span has it."""
    return number if number is None or math.isfinite(number) else None
