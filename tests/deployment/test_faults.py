"""What goes wrong with a deployment is one typed error, and nothing that served before is worse for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llamatelemetry.deployment import ServeOptions, deploy, status
from llamatelemetry.deployment.checks import checks
from llamatelemetry.deployment.state import DeploymentFolder
from llamatelemetry.errors import (
    ArtifactTamperedError,
    BackendStartError,
    DeploymentBusyError,
    DeploymentFailedError,
    DoesNotFitError,
    InvalidValueError,
    PortTakenError,
    UnverifiedArtifactError,
)


@pytest.fixture
def flipped(models) -> Path:
    """The second model with one byte changed, while the test lasts."""
    place = models.second.stat().st_size // 2
    with models.second.open("r+b") as file:
        file.seek(place)
        before = file.read(1)
        file.seek(place)
        file.write(bytes([before[0] ^ 1]))
    yield models.second
    with models.second.open("r+b") as file:
        file.seek(place)
        file.write(before)


def failing(kept, models_path: Path, **arguments) -> DeploymentFailedError:
    """Why a model does not take the place of the one that is kept, which must not notice."""
    options = {"options": kept.options, "name": "kept", **arguments}
    with pytest.raises(DeploymentFailedError, match="was not touched") as told:
        deploy(models_path, **options)
    now = status("kept")
    assert (now.state, now.deployment) == ("serving", kept)
    assert told.value.rollback == "kept"
    return told.value


def test_a_flipped_byte_is_named_and_never_served(kept, kept_home: Path, flipped: Path) -> None:
    error = failing(kept, flipped)
    assert error.step == "verify"
    assert isinstance(error.cause, ArtifactTamperedError)
    assert "second.gguf has the SHA-256" in str(error)
    # A word of permission is for what nothing describes, not for what was changed.
    assert isinstance(failing(kept, flipped, allow_unverified=True).cause, ArtifactTamperedError)


def test_what_no_manifest_describes_is_served_only_with_a_word_of_permission(
    kept, kept_home: Path, models, tmp_path: Path
) -> None:
    alone = tmp_path / "alone.gguf"
    os.link(models.first, alone)
    error = failing(kept, alone)
    assert isinstance(error.cause, UnverifiedArtifactError)
    assert "llamatelemetry manifest create alone.gguf" in str(error)


def test_what_does_not_fit_is_refused_with_how_much_is_missing_and_the_arithmetic(
    kept, kept_home: Path, models
) -> None:
    error = failing(kept, models.second, options=ServeOptions(context_length=10**6, slots=256))
    assert error.step == "plan"
    assert isinstance(error.cause, DoesNotFitError)
    assert error.cause.short_bytes > 2**30
    assert "are missing" in str(error)
    assert any("KV" in line for line in error.cause.arithmetic)


def test_a_port_that_something_else_has_is_told_before_anything_is_stopped(kept, kept_home: Path, models) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        error = failing(kept, models.second, port=other.getsockname()[1])
    assert isinstance(error.cause, PortTakenError)


def test_a_file_that_is_no_model_is_refused_before_anything_is_stopped(kept, kept_home: Path, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    assert failing(kept, tmp_path / "text.gguf", allow_unverified=True).error_type == "ModelFileError"


def test_one_name_is_changed_by_one_command_at_a_time(kept, kept_home: Path, models) -> None:
    with DeploymentFolder("kept").locked(), pytest.raises(DeploymentBusyError, match="being changed"):
        deploy(models.second, name="kept")


@pytest.mark.parametrize(("name", "port"), [("../else", None), ("", None), ("kept", 70000), ("kept", -1)])
def test_a_name_or_a_port_that_cannot_be_is_refused(kept_home: Path, models, name: str, port: int | None) -> None:
    with pytest.raises(InvalidValueError):
        deploy(models.second, name=name, port=port)


def test_a_model_that_llama_cpp_does_not_load_leaves_nothing_where_nothing_was(home: Path, models, options) -> None:
    with pytest.raises(DeploymentFailedError, match="Nothing serves under this name") as told:
        deploy(models.broken, name="chat", options=options)
    assert isinstance(told.value.cause, BackendStartError)
    assert "output_norm" in str(told.value)
    assert told.value.rollback == "none"
    assert supervisors(home) == []


def test_what_cannot_be_rolled_back_to_is_told_and_is_dead_afterwards(
    home: Path, models, options, tmp_path: Path, gone
) -> None:
    model = tmp_path / "mine.gguf"
    shutil.copyfile(models.first, model)
    made = deploy(model, name="chat", options=options, allow_unverified=True)
    with model.open("r+b") as file:
        file.seek(2**20)
        file.write(b"changed while it was served")
    with pytest.raises(DeploymentFailedError, match="Nothing serves under this name") as told:
        deploy(models.broken, name="chat", options=options)
    assert told.value.rollback == "failed"
    assert "mine.gguf has the SHA-256" in str(told.value)
    gone(made)
    now = status("chat")
    assert now.state == "dead"
    assert "made room for another" in now.problem


def test_a_killed_server_and_a_killed_supervisor_are_told_and_leave_nothing(home: Path, models, options, gone) -> None:
    made = deploy(models.first, name="chat", options=options)
    os.kill(made.server.pid, signal.SIGKILL)
    gone(made)
    now = status("chat")
    assert now.state == "dead"
    assert "SIGKILL" in now.problem
    (check,) = checks()
    assert (check.name, check.state.value) == ("chat", "error")
    assert "is dead" in check.detail

    again = deploy(models.first, name="chat", options=options)
    assert again.port == made.port
    os.kill(again.supervisor.pid, signal.SIGKILL)
    gone(again)
    now = status("chat")
    assert now.state == "dead"
    assert str(again.supervisor.pid) in now.problem


def test_a_deployment_that_is_cut_off_before_it_passed_leaves_no_server(home: Path, models) -> None:
    code = f"""
import json, os
from llamatelemetry.deployment.state import DeploymentFolder
from llamatelemetry.deployment.supervised import Candidate
folder = DeploymentFolder("chat")
with folder.locked():
    told = {{"model": {str(models.first)!r}, "context_length": 256, "slots": 1, "threads": 1}}
    serving = Candidate(folder, "one", backend="llamacpp", options=told, detached=True).start()
    print(json.dumps([serving.supervisor.pid, serving.server.pid]), flush=True)
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert json.loads(done.stdout)
    limit = time.monotonic() + 10
    while supervisors(home):
        assert time.monotonic() < limit, "its server is still there"
        time.sleep(0.05)


def supervisors(home: Path) -> list[int]:
    """Supervisors, and their servers, that have this state home."""
    found = []
    for process in psutil.process_iter(["pid", "environ", "status"]):
        environ = process.info["environ"] or {}
        ours = environ.get("LLAMATELEMETRY_HOME") == str(home) and process.info["pid"] != os.getpid()
        if ours and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.info["pid"])
    return found
