"""Records of runs, as files."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llamatelemetry.cli.pipeline_view import run_view
from llamatelemetry.errors import ArtifactError, PipelineError, UnknownNameError
from llamatelemetry.pipeline.outcome import RunRecord, StageOutcome, read_record, run_ids, write_record
from llamatelemetry.pipeline.resources import StageResources

RECORD = RunRecord(
    run_id="20261126T1545-aa",
    pipeline="road",
    state="failed",
    about={"base_model": "m"},
    given={"model": "/m"},
    given_digests={"model": "d" * 64},
    changes=("inputs.model is not what it was",),
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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**400) | st.floats() | st.text(),
    lambda of: st.lists(of, max_size=2) | st.dictionaries(st.text(), of, max_size=2),
    max_leaves=4,
)


@given(data=st.data(), value=JSON)
def test_a_record_of_which_any_field_may_hold_anything_is_shown_or_refused(tmp_path_factory, data, value):
    folder = tmp_path_factory.getbasetemp() / "hostile-records"
    folder.mkdir(exist_ok=True)
    told = json.loads(json.dumps(RECORD.to_data()))
    stage = told["stages"][0]
    place = data.draw(st.sampled_from([told, stage, stage["resources"]]))
    place[data.draw(st.sampled_from([*sorted(place), "unheard_of"]))] = value
    (folder / "r.json").write_text(json.dumps(told))
    try:
        record = read_record(folder, "r")
    except PipelineError:
        return
    with Console(file=io.StringIO()) as console:
        console.print(run_view(record, record.state, None))


def test_a_folder_that_cannot_be_written_to_is_a_typed_error(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(ArtifactError, match="cannot be used"):
        write_record(tmp_path / "runs", RECORD)
