"""The names of ``llamatelemetry.deployment``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llamatelemetry import deployment


def test_every_name_is_loaded_on_first_use_and_no_other_is_there():
    for name in ("Deployment", "DeploymentStatus", "ServeOptions", "deploy", "history", "rollback", "status", "stop"):
        assert name in dir(deployment)
        assert getattr(deployment, name).__doc__
    with pytest.raises(AttributeError, match="undeploy"):
        _ = deployment.undeploy


def test_a_supervisor_loads_no_telemetry_sdk():
    code = "import sys, llamatelemetry.deployment.supervisor; print('opentelemetry.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
