"""Records of runs, as files."""

from __future__ import annotations

import pytest

from llamatelemetry.errors import ArtifactError, PipelineError, UnknownNameError
from llamatelemetry.pipeline.outcome import RunRecord, StageOutcome, read_record, run_ids, write_record
from llamatelemetry.pipeline.resources import StageResources

RECORD = RunRecord(
    run_id="20261126T1545-aa",
    pipeline="road",
    state="failed",
    about={"base_model": "m"},
    given={"model": "/m"},
    started_ns=1,
    ended_ns=2,
    trace_id="a" * 32,
    stages=(
        StageOutcome(
            id="q4",
            stage="quantize",
            version="1",
            state="failed",
            resources=StageResources(wall_s=1.5, cpu_s=1, children_cpu_s=0, memory_peak_bytes=2**20),
            error="no",
            damage=("it was damaged",),
        ),
    ),
)


def test_what_was_written_is_read_back_also_by_the_beginning_of_its_id(tmp_path):
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path, RECORD.run_id) == read_record(tmp_path, "20261126") == RECORD
    assert run_ids(tmp_path) == (RECORD.run_id,)


def test_an_id_that_none_or_several_have_is_an_error_that_lists_what_there_is(tmp_path):
    write_record(tmp_path, RECORD)
    with pytest.raises(UnknownNameError, match="20261126T1545-aa"):
        read_record(tmp_path, "2025")
    write_record(tmp_path, RunRecord(run_id="20261126T1545-ab", pipeline="p", state="running", started_ns=1))
    with pytest.raises(UnknownNameError, match="Several"):
        read_record(tmp_path, "2026")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"stages": [1]}', "null", '{"stages": [], "state": 1}', "[" * 9999]
)
def test_a_damaged_record_is_one_typed_error(tmp_path, content):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(PipelineError, match=r"r\.json is no record of a run"):
        read_record(tmp_path, "r")


def test_a_folder_that_cannot_be_written_to_is_a_typed_error(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(ArtifactError, match="cannot be used"):
        write_record(tmp_path / "runs", RECORD)
