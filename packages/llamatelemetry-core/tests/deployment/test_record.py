"""Records of deployments: what was written is read, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.deployment.processes import ProcessRef
from llamatelemetry.deployment.record import Deployment, ServeOptions, check_name, check_port, deployment_of
from llamatelemetry.errors import DeploymentRecordError, InvalidValueError

MADE = Deployment(
    name="chat",
    id="one",
    artifact=Path("/models/m.gguf"),
    sha256="a" * 64,
    standing="verified",
    url="http://127.0.0.1:8080",
    port=8080,
    options=ServeOptions(gpu_layers=3),
    needs={"host": 5},
    supervisor=ProcessRef(pid=7, started="boot:1"),
    log=Path("/logs/one.log"),
    started_ns=5,
)


@pytest.mark.parametrize(
    "made", [MADE, replace(MADE, public_key=Path("/k.pem"), server=ProcessRef(pid=8, started="boot:2"))]
)
def test_what_was_written_is_read(made: Deployment):
    assert deployment_of(json.loads(json.dumps(made.to_data())), Path("x.json")) == made


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../up"},
        {"port": "8080"},
        {"supervisor": None},
        {"options": {"slots": 0}},
        {"options": []},
        {"unheard_of": 1},
        {"artifact": 3},
    ],
)
def test_what_is_no_record_is_one_typed_error_that_names_the_file(change):
    with pytest.raises(DeploymentRecordError, match=r"x\.json is no record of a deployment"):
        deployment_of({**MADE.to_data(), **change}, Path("x.json"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda of: st.lists(of) | st.dictionaries(st.text(), of)
)


@given(JSON)
def test_any_json_is_a_record_or_one_typed_error(data):
    with pytest.raises(DeploymentRecordError):
        deployment_of(data, Path("x.json"))


@given(st.sampled_from(sorted(MADE.to_data())), JSON)
def test_any_field_may_hold_anything(name, value):
    try:
        deployment_of({**MADE.to_data(), name: value}, Path("x.json"))
    except DeploymentRecordError:
        return


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "x" * 64, "a\n"])
def test_a_name_that_could_lead_elsewhere_is_refused(name):
    with pytest.raises(InvalidValueError, match="name"):
        check_name(name)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_there_is_not_is_refused(port):
    with pytest.raises(InvalidValueError, match="port"):
        check_port(port)


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"threads": 0}, {"context_length": -1}, {"gpu_layers": "some"}])
def test_how_nothing_can_be_served_is_refused(wrong):
    with pytest.raises(InvalidValueError, match=next(iter(wrong))):
        ServeOptions(**wrong)
