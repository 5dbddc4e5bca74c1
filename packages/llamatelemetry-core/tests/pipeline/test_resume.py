"""Random pipelines that fail at random: whatever happens, the end is the same and nothing unchanged runs twice."""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st

from llamatelemetry.errors import StageFailedError
from llamatelemetry.pipeline import Node, Pipeline, Port, StageContext


@dataclass
class Plan:
    """One stage: which earlier outputs it takes, how many it makes, and when it breaks."""

    sources: list[tuple[int, int]]
    outputs: int
    fails: int
    salt: int


@st.composite
def plans(draw: st.DrawFn) -> list[Plan]:
    made: list[tuple[int, int]] = []
    found = []
    for index in range(draw(st.integers(1, 4))):
        sources = draw(st.lists(st.sampled_from(made), max_size=3)) if made else []
        outputs = draw(st.integers(1, 2))
        found.append(Plan(sources, outputs, draw(st.integers(0, 1)), draw(st.integers(0, 1))))
        made += [(index, number) for number in range(outputs)]
    return found


class Mix:
    """Makes text of all it was given; breaks so many times first, half of its work done."""

    name, version = "mix", "1"
    tools: ClassVar[dict[str, str]] = {}

    def __init__(self, plan: Plan, runs: Counter[str], failures: Counter[int], index: int) -> None:
        self.inputs = tuple(Port(name=f"in{number}", kind="text") for number in range(len(plan.sources)))
        self.outputs = tuple(Port(name=f"out{number}", kind="text") for number in range(plan.outputs))
        self.parameters = {"salt": plan.salt}
        self._runs, self._failures, self._index = runs, failures, index

    def run(self, context: StageContext) -> dict[str, Path]:
        given = "+".join(context.path(port.name).read_text() for port in self.inputs)
        made = {}
        for port in self.outputs:
            made[port.name] = context.folder / port.name
            made[port.name].write_text(f"({given}|{self.parameters['salt']}|{port.name})"[-2000:])
            if self._failures[self._index] > 0:
                self._failures[self._index] -= 1
                raise RuntimeError("broken on purpose")
        self._runs[f"{given}|{self.parameters}|{len(self.outputs)}"] += 1
        return made


def pipeline_of(plan: list[Plan], runs: Counter[str], failures: Counter[int]) -> Pipeline:
    return Pipeline(
        [
            Node(
                stage=Mix(each, runs, failures, index),
                id=f"s{index}",
                inputs={f"in{number}": f"s{stage}.out{out}" for number, (stage, out) in enumerate(each.sources)},
            )
            for index, each in enumerate(plan)
        ]
    )


def contents(run) -> dict[str, str]:
    return {name: artifact.manifest.content_digest for name, artifact in run.artifacts.items()}


@given(plans(), st.integers(0, 4))
@settings(max_examples=10, deadline=None)
def test_a_pipeline_that_was_resumed_makes_what_one_that_never_failed_makes(plan, changed):
    with tempfile.TemporaryDirectory() as folder:
        smooth = pipeline_of(plan, Counter(), Counter()).run("smooth", store=Path(folder, "smooth"))

        runs: Counter[str] = Counter()
        failures = Counter({index: each.fails for index, each in enumerate(plan)})
        store = Path(folder, "rough")
        rough = None
        for _ in range(failures.total() + 1):  # Less often, where a stage is given what its twin makes.
            with suppress(StageFailedError):
                rough = pipeline_of(plan, runs, failures).run("rough", store=store)
        assert rough is not None
        assert contents(rough) == contents(smooth)
        assert set(runs.values()) <= {1}, "no stage was run twice with the same"

        failures.clear()
        before = runs.copy()
        assert contents(pipeline_of(plan, runs, failures).run("again", store=store)) == contents(smooth)
        assert runs == before, "nothing changed, and nothing is run"

        plan[changed % len(plan)].salt += 10
        pipeline_of(plan, runs, failures).run("changed", store=store)
        assert set(runs.values()) == {1}, "what did not change is not run again"
