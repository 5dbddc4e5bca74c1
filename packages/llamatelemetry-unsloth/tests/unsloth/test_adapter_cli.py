"""``llamatelemetry adapter`` says what an adapter is."""

from __future__ import annotations

import json
import subprocess
import sys

from llamatelemetry.unsloth.testing import write_small_adapter


def adapter(*arguments):
    command = [sys.executable, "-m", "llamatelemetry.cli", "adapter", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_people_read_rank_targets_and_size(tmp_path):
    done = adapter(write_small_adapter(tmp_path / "lora", rank_pattern={"q_proj": 8}, modules_to_save=["lm_head"]))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'lora'} is a LoRA adapter of small.",
        "  rank        4, alpha 8, scale 2",
        "  layers      4: q_proj, v_proj",
        "  parameters  1,792 in F32, 0.0 MB",
        "    q_proj                       1,024",
        "    v_proj                         768",
        "  other ranks q_proj 8",
        "  whole       lm_head",
    ]


def test_programs_read_one_object(tmp_path):
    done = adapter(write_small_adapter(tmp_path / "lora"), "--json")

    found = json.loads(done.stdout)
    assert (found["rank"], found["scale"], found["layers"], found["parameters"]) == (4, 2.0, 4, 1792)
    assert found["target_parameters"] == {"q_proj": 1024, "v_proj": 768}


def test_what_is_no_adapter_is_one_line_and_an_exit_code(tmp_path):
    done = adapter(tmp_path)

    assert done.returncode == 1
    assert done.stdout == ""
    assert "adapter_config.json: does not exist" in done.stderr
    assert "Traceback" not in done.stderr
