from __future__ import annotations

import sys
import types

import pytest

from llamatelemetry.cli.app import run
from llamatelemetry.errors import InvalidValueError, MissingDependencyError
from llamatelemetry.quantization import nf4
from llamatelemetry.quantization.nf4.runtime import INSTALL_COMMAND, load_bitsandbytes, load_torch
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint

LOSS = nf4.Loss(elements=4, size_bytes=3, signal=100.0, noise=1.0, max_abs_error=0.5)


@pytest.fixture
def without(monkeypatch):
    """Hides a module, or puts something in its place."""
    return lambda name, instead=None: monkeypatch.setitem(sys.modules, name, instead)


@pytest.mark.parametrize(
    "call",
    [
        lambda _: nf4.quantize_tensor([1.0]),
        lambda _: nf4.dequantize_tensor(None),
        lambda _: nf4.measure_loss([1.0], [1.0], size_bytes=1),
        lambda _: nf4.quantize_linears(None),
        lambda _: nf4.restore_linears(None),
        nf4.measure_checkpoint,
    ],
)
def test_every_entry_point_says_what_to_install(without, call, tmp_path):
    without("torch")

    with pytest.raises(MissingDependencyError, match="NF4 and FP4 needs torch, which is not installed") as caught:
        call(tmp_path)

    assert caught.value.command == INSTALL_COMMAND == "pip install 'llamatelemetry-quantization[nf4]'"


def test_the_verb_says_it_in_one_line(without, tmp_path, capsys):
    without("torch")

    assert run(["nf4", str(write_small_checkpoint(tmp_path / "small"))]) == 1

    assert f"Run: {INSTALL_COMMAND}" in capsys.readouterr().err


def test_bitsandbytes_alone_can_be_what_is_missing(without):
    without("torch", types.SimpleNamespace(__version__="2.6.0+cpu"))
    assert load_torch().__version__ == "2.6.0+cpu"

    without("bitsandbytes")
    with pytest.raises(MissingDependencyError, match="needs bitsandbytes, which"):
        load_bitsandbytes()


@pytest.mark.parametrize(
    ("version", "said"), [("2.5.1", "torch 2.6 or newer, instead of 2.5.1"), (None, "a torch that can be imported")]
)
def test_what_is_too_old_or_broken_is_told_apart(without, version, said):
    without("torch", types.SimpleNamespace(**({"__version__": version} if version else {})))

    with pytest.raises(MissingDependencyError, match=said):
        load_torch()


def test_losses_add_up():
    rest = nf4.Loss(elements=12, size_bytes=5, signal=300.0, noise=3.0, max_abs_error=0.25)

    both = nf4.sum_of([LOSS, rest])

    assert (both.elements, both.size_bytes, both.max_abs_error) == (16, 8, 0.5)
    assert both.relative_error == pytest.approx(0.1)
    assert both.snr_db == pytest.approx(20.0)
    assert both.bits_per_weight == 4.0


def test_what_nobody_can_say_is_none():
    nothing = nf4.sum_of([])

    assert (nothing.relative_error, nothing.snr_db, nothing.bits_per_weight) == (None, None, None)


def test_a_format_that_is_none_is_refused():
    with pytest.raises(InvalidValueError, match="give one of 32, 64"):
        nf4.FourBit(block_size=63)
