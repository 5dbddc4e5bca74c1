"""What a stage of a pipeline owes, and what it is given.

A stage turns artifacts into artifacts. It neither hashes, keeps nor traces them: the runner does, and
does not run a stage again whose outcome it has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.pipeline.context import PipelineContext
from llamatelemetry.pipeline.stage_trace import StageTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or an output of a stage.

    Attributes:
        name: What it is to the stage: a word such as ``model`` or ``dataset``.
        kind: Kind of artifact: ``checkpoint``, ``adapter``, ``gguf``, ``dataset``, ``report`` or a word of one's own.
        help: One line on it.
        optional: Of an input: the stage runs without it too.
    """

    name: str
    kind: str
    help: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An artifact that was held to its manifest.

    Attributes:
        path: Its file or folder, to be read and left as it is: the next run would find it damaged.
        manifest: What it is and where it came from.
    """

    path: Path
    manifest: ArtifactManifest


class StageContext:
    """What a stage is given to run with.

    Attributes:
        run: What the run is about. It is not among what decides the outcome, so nothing that is made may hang on it
            but what says who made it.
        inputs: By name; an optional one that nothing was wired to is not among them.
        folder: An empty folder to write in, gone afterwards but for what the stage returns.
        shared: A folder that the stages of this name have together, made by the first that needs it and gone when
            the run ends, however it does. What is in it saves work and changes no outcome.
        taken_again: Names of the inputs whose artifacts a later stage of this name takes too.
        trace: The stage's span: its ids, and ``output`` and ``origin`` for what the runner does not see.
    """

    def __init__(
        self,
        *,
        run: PipelineContext,
        inputs: Mapping[str, Artifact],
        folder: Path,
        shared: Path,
        taken_again: Collection[str],
        trace: StageTrace,
        tell: Callable[[float, float | None, str], None],
    ) -> None:
        self.run: PipelineContext = run
        self.inputs: Mapping[str, Artifact] = inputs
        self.folder: Path = folder
        self.shared: Path = shared
        self.taken_again: Collection[str] = taken_again
        self.trace: StageTrace = trace
        self._tell = tell

    def path(self, name: str) -> Path:
        """Where an input is.

        Raises:
            KeyError: It is optional, and nothing was wired to it.
        """
        return self.inputs[name].path

    def step(
        self,
        number: int | None = None,
        *,
        loss: float | None = None,
        learning_rate: float | None = None,
        **figures: float,
    ) -> None:
        """Says that a step ended, as :meth:`~llamatelemetry.pipeline.stage_trace.StageTrace.step`. Never raises."""
        self.trace.step(number, loss=loss, learning_rate=learning_rate, **figures)

    def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
        """Says how far the stage is. Never raises.

        Args:
            done: How much is done.
            total: Of how much; None where that is not known.
            unit: Of what, for example ``tensors``; ``B`` for bytes.
        """
        self._tell(done, total, unit)


@runtime_checkable
class Stage(Protocol):
    """One kind of work on artifacts. Plain class attributes do for whatever does not change.

    What the same stage makes of the same inputs is decided by ``name``, ``version``, ``parameters`` and
    ``tools`` alone: while they stay as they are, what was made once is taken again.
    """

    @property
    def name(self) -> str:
        """What it does, in a word; it is registered under this name, and its span has it."""
        ...

    @property
    def version(self) -> str:
        """Version of its code. Change it whenever the outcome may change."""
        ...

    @property
    def inputs(self) -> Sequence[Port]:
        """What it takes."""
        ...

    @property
    def outputs(self) -> Sequence[Port]:
        """What it makes. A stage that makes nothing is run every time."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """All that it was told and that decides the outcome, as JSON."""
        ...

    @property
    def tools(self) -> Mapping[str, str]:
        """Names of the tools whose version decides the outcome too, to their versions."""
        ...

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Does the work.

        Returns:
            Name of each output to its file or folder, which stands in ``context.folder``.
        """
        ...


@runtime_checkable
class Lapsing(Protocol):
    """A stage whose outcome can cease to hold although every byte of it is there, as a server that ended does."""

    def lapsed(self, outputs: Mapping[str, Artifact]) -> str:
        """Why what it made earlier does not hold any more, in words; empty where it does.

        Args:
            outputs: What it made, held to its manifests.
        """
        ...
