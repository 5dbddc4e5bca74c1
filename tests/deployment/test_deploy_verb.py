"""``llamatelemetry deploy``, from a shell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llamatelemetry.deployment import history, status

SMALL = ("--ctx", "256", "--slots", "1", "--threads", "1")


def llamatelemetry(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder."""
    command = [sys.executable, "-W", "error", "-m", "llamatelemetry.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=90, check=False)


def test_a_model_is_deployed_by_its_manifest_and_outlives_the_command(home: Path, models, tmp_path: Path) -> None:
    done = llamatelemetry("deploy", f"{models.first}.manifest.json", "--name", "chat", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "chat serves first at http://127.0.0.1:" in done.stdout
    assert "run run-7" in done.stdout

    asked = llamatelemetry("deploy", "status", "--name", "chat", "--json", cwd=tmp_path)
    assert asked.returncode == 0
    said = json.loads(asked.stdout)
    assert (said["state"], said["name"], said["run_id"]) == ("serving", "chat", "run-7")

    stopped = llamatelemetry("deploy", "stop", "--name", "chat", cwd=tmp_path)
    assert stopped.returncode == 0
    assert "chat is stopped" in stopped.stdout
    assert status("chat").state == "stopped"


def test_a_failure_is_one_line_of_json_and_an_exit_code(kept, kept_home: Path, models, tmp_path: Path) -> None:
    done = llamatelemetry("deploy", "--name", "kept", "nothing.gguf", "--json", cwd=tmp_path)
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "ArtifactMissingError"
    assert f"serves at {kept.url}" in error["message"]


def test_a_server_is_not_called_unhealthy_where_the_plugin_that_would_ask_it_is_disabled(
    kept, kept_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMATELEMETRY_DISABLED_PLUGINS", "llamacpp")
    done = llamatelemetry("deploy", "status", "--name", "kept", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("kept  unknown  whole")
    assert "LLAMATELEMETRY_DISABLED_PLUGINS" in done.stdout


def test_in_the_foreground_it_lasts_as_long_as_the_command(home: Path, models, tmp_path: Path, gone) -> None:
    command = [sys.executable, "-m", "llamatelemetry.cli", "deploy", str(models.first), "--foreground", *SMALL]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert "default serves first" in running.stdout.readline()
            assert status().state == "serving"
        finally:
            running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 128 + signal.SIGTERM
    (made,) = history()
    gone(made)
    assert status().state == "stopped"


def test_in_the_foreground_the_end_of_the_server_is_the_end_of_the_command(home: Path, models, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llamatelemetry.cli", "deploy", str(models.first), "--foreground", *SMALL]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert "default serves first" in running.stdout.readline()
        os.kill(history()[0].server.pid, signal.SIGKILL)
        said = running.communicate(timeout=20)[1]
    assert running.returncode == 1
    assert "SIGKILL" in said
