"""The backend where torch is missing, too old or broken: one error, with the command that helps."""

from __future__ import annotations

import sys

import pytest

from llamatelemetry import InferenceEngine
from llamatelemetry.errors import BackendStartError, ConfigurationError, InvalidValueError, MissingDependencyError
from llamatelemetry.plugins import load_plugins
from llamatelemetry.sdk import instrument_transformers
from llamatelemetry.transformers import TransformersBackend

COMMAND = "pip install 'llamatelemetry-transformers[torch]'"


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    """Hides an installed package, as if it were not."""

    def hide(name: str) -> None:
        monkeypatch.setitem(sys.modules, name, None)

    return hide


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """Puts a module where Python looks first."""

    def plant(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        # Put back afterwards, by the undoing of the first, so that no other test sees what is planted.
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)

    return plant


@pytest.mark.parametrize("name", ["torch"])
def test_what_is_missing_is_named_with_the_command_that_installs_it(without, name):
    without(name)
    with pytest.raises(MissingDependencyError) as caught:
        InferenceEngine("transformers", model_or_id="nobody/nothing")
    assert caught.value.missing == name
    assert caught.value.command == COMMAND
    assert COMMAND in str(caught.value)


def test_a_missing_transformers_is_named_too(without, planted):
    planted("torch", "__version__ = '2.13.0'\n")
    without("transformers")
    with pytest.raises(MissingDependencyError) as caught:
        TransformersBackend("nobody/nothing").open()
    assert (caught.value.missing, caught.value.command) == ("transformers", COMMAND)


def test_a_torch_that_is_too_old_says_what_is_needed(planted):
    planted("torch", "__version__ = '2.5.1'\n")
    with pytest.raises(BackendStartError, match=r"torch 2\.5\.1 is too old: 2\.6 or newer is needed"):
        TransformersBackend("nobody/nothing").open()


def test_a_transformers_that_is_too_old_says_what_is_needed(planted):
    planted("torch", "__version__ = '2.13.0'\n")
    planted("transformers", "__version__ = '4.57.1'\n")
    with pytest.raises(BackendStartError, match=r"transformers 4\.57\.1 is too old: 5\.0 or newer is needed"):
        TransformersBackend("nobody/nothing").open()


def test_a_torch_that_cannot_be_imported_says_why(planted):
    planted("torch", "raise OSError('libcudart.so.13: cannot open shared object file')\n")
    with pytest.raises(BackendStartError, match="libcudart"):
        TransformersBackend("nobody/nothing").open()


def test_what_is_no_model_is_refused_before_anything_is_imported():
    with pytest.raises(InvalidValueError, match="PreTrainedModel"):
        instrument_transformers(object())


def test_a_name_of_nothing_is_refused_as_such():
    with pytest.raises(InvalidValueError, match="name on the hub") as caught:
        InferenceEngine("transformers", model_or_id="")
    assert caught.value.field == "model_or_id"


def test_an_option_that_there_is_not_is_named():
    with pytest.raises(ConfigurationError, match="colour"):
        InferenceEngine("transformers", model_or_id="x", colour="red")


def test_the_backend_is_listed_without_being_imported():
    factory = load_plugins().resolve_backend("transformers")
    assert factory is TransformersBackend
