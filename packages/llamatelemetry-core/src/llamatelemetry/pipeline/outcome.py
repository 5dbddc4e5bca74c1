"""What came of a run, as it is kept beside the artifacts it made: ``runs/<run id>.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, get_type_hints

from llamatelemetry.artifacts.atomic import write_atomically
from llamatelemetry.artifacts.tree import unreadable
from llamatelemetry.errors import PipelineError, UnknownNameError
from llamatelemetry.pipeline.parameters import fits
from llamatelemetry.pipeline.resources import StageResources

StageState = Literal["running", "ran", "reused", "failed", "interrupted"]
RunState = Literal["running", "succeeded", "failed", "interrupted", "lost"]
"""``lost`` is said of a run whose process was killed; no record says it of itself."""

MAX_RECORD_BYTES: Final = 16 * 2**20
_MOST: Final = 2**63
"""No figure of a record is this large, and what is larger than floats and dates cannot be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutcome:
    """What came of one stage. What is not known is None, or empty.

    Attributes:
        id: Its name in the pipeline.
        stage: What it does.
        version: Version of its code.
        state: How it ended.
        key: Digest of all that decides what it makes.
        inputs: Each input to where it came from, ``f16.model`` or ``inputs.model``.
        outputs: Each output to its manifest's digest.
        paths: Each output to where it is.
        resources: What it cost; None where it was not run.
        gpu_energy_j: What GPUs took for it above idle, in joules.
        steps: How many steps it took.
        loss_first: Loss of the first that had one.
        loss_last: Loss of the last.
        trace_id: Trace that its span is in, 32 hexadecimal digits; empty if none was sampled.
        span_id: Its span, 16 digits.
        error_type: What kind of error ended it.
        error: The error in words.
        damage: Outcomes of earlier runs that were there and are not what they were, or do not hold any more, so
            that they were made anew.
    """

    id: str
    stage: str
    version: str
    state: StageState
    key: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    resources: StageResources | None = None
    gpu_energy_j: float | None = None
    steps: int | None = None
    loss_first: float | None = None
    loss_last: float | None = None
    trace_id: str = ""
    span_id: str = ""
    error_type: str = ""
    error: str = ""
    damage: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What came of a run so far.

    Attributes:
        run_id: The run.
        pipeline: The pipeline's name.
        state: How it ended, or that it goes on.
        about: The other fields of its context that are known.
        given: What it was given: names to paths.
        given_digests: The same names to the digests of manifests.
        changes: What was given at the same path to the latest run before, and is not what it was then.
        started_ns: When it began, in nanoseconds since the Unix epoch.
        ended_ns: When it ended.
        trace_id: Its trace, 32 hexadecimal digits; empty if none was sampled.
        stages: What came of each stage that was reached.
        error_type: What kind of error ended it.
        error: The error in words.
    """

    run_id: str
    pipeline: str
    state: RunState
    about: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    given_digests: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    started_ns: int
    ended_ns: int | None = None
    trace_id: str = ""
    stages: tuple[StageOutcome, ...] = ()
    error_type: str = ""
    error: str = ""

    def to_data(self) -> dict[str, Any]:
        """The record as JSON has it."""
        return asdict(self)


def write_record(folder: Path, record: RunRecord) -> Path:
    """Writes a record, whole or not at all; returns where.

    Raises:
        ArtifactError: It cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unreadable(folder, error) from None
    path = folder / f"{record.run_id}.json"
    write_atomically(path, json.dumps(record.to_data(), indent=1).encode() + b"\n")
    return path


def run_ids(folder: Path) -> tuple[str, ...]:
    """Every run that a folder has a record of, in the order of ids, which is that of time unless ids were given."""
    return tuple(sorted(path.stem for path in folder.glob("*.json") if not path.name.startswith(".")))


def read_record(folder: Path, run_id: str) -> RunRecord:
    """The record of a run.

    Args:
        folder: The folder of records.
        run_id: The run, or the beginning of its id where no other run's begins so.

    Raises:
        UnknownNameError: There is none, or there are several that begin so.
        PipelineError: What is there is no record of a run.
    """
    known = run_ids(folder)
    fitting = [run_id] if run_id in known else [each for each in known if each.startswith(run_id)]
    if len(fitting) != 1:
        hint = "Several begin so." if fitting else f"Records are looked for in {folder}."
        raise UnknownNameError("run", run_id, tuple(fitting) or known[-10:], hint)
    path = folder / f"{fitting[0]}.json"
    try:
        with path.open("rb") as file:
            return _parsed(json.loads(file.read(MAX_RECORD_BYTES)))
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PipelineError(f"{path} is no record of a run: {error}; remove it") from None


def _parsed(data: dict[str, Any]) -> RunRecord:
    stages = tuple(_parsed_stage(each) for each in data.pop("stages"))
    held = _held(RunRecord, data)
    return replace(RunRecord(**held), stages=stages, changes=tuple(held.get("changes", ())))


def _parsed_stage(data: dict[str, Any]) -> StageOutcome:
    cost = data.pop("resources")
    damage = tuple(_held(StageOutcome, {"damage": data.pop("damage")})["damage"])
    resources = None if cost is None else StageResources(**_held(StageResources, cost))
    return StageOutcome(**_held(StageOutcome, data), damage=damage, resources=resources)


def _held(kind: type, data: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record, once each is of its type: whoever shows them need not ask again."""
    hints = get_type_hints(kind)
    for name, value in data.items():
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        texts = name == "about" or all(isinstance(each, str) for each in inner)
        if not (fits(value, hints[name]) and texts) or (isinstance(value, int) and abs(value) >= _MOST):
            raise ValueError(f"{name} cannot be {str(value)[:80]!r}")
    return data
