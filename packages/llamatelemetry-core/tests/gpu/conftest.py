"""Machines that the tests of this room run on. All are stubs: nothing read here is a measurement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llamatelemetry.testing.nvml_stub import A100_MIG, H100, H100_X8, LAPTOP, TESLA_T4_X2, NvmlStub


@pytest.fixture
def t4x2(tmp_path: Path) -> Iterator[NvmlStub]:
    """Two T4."""
    with NvmlStub(TESLA_T4_X2, tmp_path) as stub:
        yield stub


@pytest.fixture
def a100_mig(tmp_path: Path) -> Iterator[NvmlStub]:
    """An A100 with three MIG instances."""
    with NvmlStub(A100_MIG, tmp_path) as stub:
        yield stub


@pytest.fixture
def h100(tmp_path: Path) -> Iterator[NvmlStub]:
    """One H100."""
    with NvmlStub(H100, tmp_path) as stub:
        yield stub


@pytest.fixture
def h100x8(tmp_path: Path) -> Iterator[NvmlStub]:
    """Eight H100 joined by NVLink."""
    with NvmlStub(H100_X8, tmp_path) as stub:
        yield stub


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[NvmlStub]:
    """A laptop whose GPU tells little."""
    with NvmlStub(LAPTOP, tmp_path) as stub:
        yield stub
