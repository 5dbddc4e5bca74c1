"""``llamatelemetry topo`` against a scripted driver, and where there is none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry.testing.nvml_stub import A100_MIG, H100_X8, TESLA_T4_X2, NvmlStub, StubDevice

NO_DRIVER = 9


def shown(shelf: Any, folder: Path, devices: Sequence[StubDevice], *arguments: str, code: int = 0, **env: str) -> str:
    stub = NvmlStub(devices, folder)
    done = shelf.llamatelemetry("topo", *arguments, env={**stub.environ, **env})
    assert (done.returncode, done.stderr) == (code, "")
    text: str = done.stdout
    return text


def test_two_stub_t4_are_drawn_with_a_legend(shelf: Any, tmp_path: Path) -> None:
    lines = shown(shelf, tmp_path, TESLA_T4_X2).splitlines()
    assert lines[:5] == [
        "      GPU0  GPU1  CPU Affinity  NUMA Affinity  GPU NUMA ID",
        "GPU0   X    PHB   0-3           0              N/A",
        "GPU1  PHB    X    0-3           0              N/A",
        "",
        "Legend, nearest first:",
    ]
    assert "  PHB   PCIe through a host bridge, so through a CPU" in lines


def test_a_narrow_terminal_folds_no_matrix_of_stub_gpus(shelf: Any, tmp_path: Path) -> None:
    rows = shown(shelf, tmp_path, H100_X8, COLUMNS="40").splitlines()[1:9]
    assert [row.split()[0] for row in rows] == [f"GPU{index}" for index in range(8)]


def test_colours_are_for_terminals_and_change_no_word(shelf: Any, tmp_path: Path) -> None:
    plain = shown(shelf, tmp_path, TESLA_T4_X2)
    assert "\x1b" not in plain
    coloured = shown(shelf, tmp_path, TESLA_T4_X2, FORCE_COLOR="1", TERM="xterm")
    assert "\x1b[33mPHB\x1b[0m" in coloured


def test_peers_that_the_stub_keeps_apart_are_shown_with_what_does(shelf: Any, tmp_path: Path) -> None:
    lines = shown(shelf, tmp_path, TESLA_T4_X2, "--p2p").splitlines()
    assert lines[:3] == ["      GPU0  GPU1", "GPU0   X    CNS", "GPU1  CNS    X"]
    assert "  CNS  the chipset does not let them" in lines


def test_json_has_the_whole_graph_of_stub_gpus(shelf: Any, tmp_path: Path) -> None:
    said = json.loads(shown(shelf, tmp_path, H100_X8, "--json"))
    uuids = [device.uuid for device in H100_X8]
    assert said["driver"] == {"version": "550.54.15", "cuda": "12.4", "hidden": 0}
    assert [gpu["uuid"] for gpu in said["gpus"]] == uuids
    assert [gpu["cpus"] for gpu in said["gpus"]] == ["0-47"] * 4 + ["48-95"] * 4
    assert len(said["links"]) == 28
    first = said["links"][0]
    assert (first["a"], first["b"], first["kind"], first["label"], first["path"]) == (*uuids[:2], "NV", "NV18", "NODE")
    assert first["nvlink"]["bytes_per_s"] == 18 * 26_562_000_000
    assert first["p2p"]["read"] == "ok"
    assert [node["cpus"] for node in said["numa_nodes"]] == ["0-47", "48-95"]
    assert len(said["switches"]) == 4
    assert said["islands"] == [uuids]
    assert len(said["pairs"]) == 4


def test_only_what_cuda_would_see_of_stub_gpus_is_shown(shelf: Any, tmp_path: Path) -> None:
    said = json.loads(shown(shelf, tmp_path, H100_X8, "--json", CUDA_VISIBLE_DEVICES="5,6"))
    assert [gpu["index"] for gpu in said["gpus"]] == [5, 6]
    assert said["driver"]["hidden"] == 6


def test_mig_instances_of_a_stub_are_named(shelf: Any, tmp_path: Path) -> None:
    said = shown(shelf, tmp_path, A100_MIG)
    assert all(instance.uuid in said for instance in A100_MIG[0].mig or ())


@pytest.mark.parametrize("arguments", [(), ("--p2p",)])
def test_no_driver_is_one_line_with_a_fix_and_exit_code_1(
    shelf: Any, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    stub = NvmlStub((), tmp_path)
    stub.fail("nvmlInit", NO_DRIVER)
    done = shelf.llamatelemetry("topo", *arguments, env=stub.environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: the driver's libraries are here, and its kernel module is not loaded: ")
    assert done.stderr.count("\n") == 1


def test_no_driver_in_json_is_an_error_of_its_own_type(shelf: Any, tmp_path: Path) -> None:
    stub = NvmlStub((), tmp_path)
    stub.fail("nvmlInit", NO_DRIVER)
    done = shelf.llamatelemetry("topo", "--json", env=stub.environ)
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout)["error"]["type"] == "GPUUnavailableError"


def test_a_driver_without_a_gpu_is_an_error_too(shelf: Any, tmp_path: Path) -> None:
    done = shelf.llamatelemetry("topo", env=NvmlStub((), tmp_path).environ)
    assert done.returncode == 1
    assert "shows no GPU" in done.stderr


def test_help_says_how_to_read_it(shelf: Any) -> None:
    done = shelf.llamatelemetry("topo", "--help")
    assert done.returncode == 0
    assert "taskset -c" in done.stdout
    assert "NVLink" in done.stdout
