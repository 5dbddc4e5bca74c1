"""Where deployments are kept."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from llamatelemetry.cli.app import run
from llamatelemetry.deployment.checks import checks
from llamatelemetry.deployment.processes import ProcessRef, process_ref
from llamatelemetry.deployment.record import Deployment, ServeOptions
from llamatelemetry.deployment.standing import judge, status
from llamatelemetry.deployment.state import KEPT, DeploymentFolder, Ending, deployment_names, state_home
from llamatelemetry.errors import ArtifactError, DeploymentBusyError, DeploymentRecordError, UnknownNameError
from llamatelemetry.plugins import CheckState


def made(name: str = "chat", deployment_id: str = "one") -> Deployment:
    return Deployment(
        name=name,
        id=deployment_id,
        artifact=Path("/models/m.gguf"),
        sha256="a" * 64,
        standing="verified",
        url="http://127.0.0.1:1",
        port=1,
        supervisor=ProcessRef(pid=1, started="another boot:1"),
        log=Path("/logs/one.log"),
        started_ns=5,
    )


def test_state_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LLAMATELEMETRY_HOME", str(tmp_path))
    assert state_home() == tmp_path
    monkeypatch.delenv("LLAMATELEMETRY_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_home() == tmp_path / "llamatelemetry"
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_home() == tmp_path / ".local" / "state" / "llamatelemetry"


def test_what_was_noted_is_current_and_remembered_and_what_is_old_is_not(tmp_path: Path):
    folder = DeploymentFolder("chat", tmp_path)
    with folder.locked():
        folder.log("00-failed").touch()
        for number in range(1, KEPT + 3):
            last = made(deployment_id=f"{number:02d}")
            folder.log(last.id).touch()
            folder.note(last)
            folder.note_end(last.id, Ending(reason="x", wanted=True, ended_ns=1))
        folder.note(last)
    assert folder.known() == last
    assert [each.id for each in folder.history()] == [f"{number:02d}" for number in range(3, KEPT + 3)]
    assert {path.stem for path in (folder.path / "logs").iterdir()} == {each.id for each in folder.history()}
    assert folder.ending("01") is None
    assert deployment_names(tmp_path) == ("chat",)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"a": 1}', b"\xff", b"[" * 100_000])
def test_an_ending_that_cannot_be_read_is_none(tmp_path: Path, content: bytes):
    folder = DeploymentFolder("chat", tmp_path)
    with folder.locked():
        folder.note_end("one", Ending(reason="x", wanted=True, ended_ns=1))
    (folder.path / "ended" / "one.json").write_bytes(content)
    assert folder.ending("one") is None


def test_two_may_not_change_one_name_at_once_and_may_change_two(tmp_path: Path):
    with DeploymentFolder("chat", tmp_path).locked():
        with DeploymentFolder("other", tmp_path).locked():
            pass
        with pytest.raises(DeploymentBusyError, match="chat"), DeploymentFolder("chat", tmp_path).locked():
            pass
    with DeploymentFolder("chat", tmp_path).locked():
        pass


def test_nothing_deployed_is_told_with_where_it_was_looked_for(tmp_path: Path):
    with pytest.raises(UnknownNameError, match=str(tmp_path)):
        DeploymentFolder("chat", tmp_path).known()
    assert deployment_names(tmp_path) == ()


def test_a_damaged_record_is_named_and_one_of_the_past_is_passed_over(tmp_path: Path):
    folder = DeploymentFolder("chat", tmp_path)
    with folder.locked():
        folder.note(made())
    (folder.path / "history" / "00.json").write_text("{")
    assert len(folder.history()) == 1
    (folder.path / "current.json").write_text('{"name":')
    with pytest.raises(DeploymentRecordError, match=r"current\.json"):
        folder.known()


def test_a_home_that_cannot_be_written_to_is_a_typed_error(tmp_path: Path):
    (tmp_path / "deployments").write_text("a file")
    with pytest.raises(ArtifactError), DeploymentFolder("chat", tmp_path).locked():
        pass


def test_how_a_server_ended_is_told_apart_from_how_it_was_meant_to(tmp_path: Path):
    folder = DeploymentFolder("chat", tmp_path)
    with folder.locked():
        folder.note(made())
    assert "process 1, is gone" in status("chat", home=tmp_path).problem
    folder.note_end("one", Ending(reason="it crashed", wanted=False, ended_ns=1))
    now = status("chat", home=tmp_path)
    assert (now.state, now.problem) == ("dead", "its server ended: it crashed")
    folder.note_end("one", Ending(reason="it was stopped", wanted=True, ended_ns=1))
    assert judge(folder, made()).state == "stopped"
    assert judge(folder, replace(made(), id="two")).state == "dead"


def test_whether_it_serves_cannot_be_told_without_the_plugin_that_asks_its_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("LLAMATELEMETRY_HOME", str(tmp_path))
    process = process_ref(os.getpid())
    assert process is not None
    running = replace(made(), supervisor=process, server=process, options=ServeOptions(backend="gone"))
    folder = DeploymentFolder("chat")
    with folder.locked():
        folder.note(running)

    now = status("chat")

    assert (now.state, now.uptime_s) == ("unknown", None)
    assert "'gone'" in now.problem
    (check,) = checks()
    assert (check.state, check.fix) == (CheckState.WARNING, "llamatelemetry plugins")
    assert run(["deploy", "status"]) == 1
    assert "chat  unknown" in capsys.readouterr().out
