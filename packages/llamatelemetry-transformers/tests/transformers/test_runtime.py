"""What is imported late, and what is said where it is not there: packages made here stand for torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.errors import BackendStartError, MissingDependencyError
from llamatelemetry.transformers import runtime

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Has nothing but what it is given be found as torch and transformers."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "path_hooks", [hook for hook in sys.path_hooks if "editable" not in repr(hook).lower()])
    for name in [each for each in sys.modules if each.split(".")[0] in {"torch", "transformers"}]:
        monkeypatch.delitem(sys.modules, name)

    def put(**sources: str) -> None:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)

    yield put
    for name in ("torch", "transformers"):
        sys.modules.pop(name, None)


def test_what_is_new_enough_is_imported(install):
    install(torch='__version__ = "2.6.0+cpu"', transformers='__version__ = "5.0.0"')
    assert runtime.load_torch().__version__ == "2.6.0+cpu"
    assert runtime.load_transformers().__version__ == "5.0.0"


@pytest.mark.usefixtures("install")
def test_what_is_missing_is_told_with_the_command_that_installs_it():
    with pytest.raises(MissingDependencyError, match="a test needs torch, which is not installed") as caught:
        runtime.load_torch("a test")
    assert caught.value.command == runtime.INSTALL_COMMAND


def test_transformers_without_torch_is_told_as_a_lack_of_torch(install):
    install(transformers='__version__ = "5.21.0"')
    with pytest.raises(MissingDependencyError, match="needs torch"):
        runtime.load_transformers()


def test_torch_without_transformers_is_told_as_a_lack_of_transformers(install):
    install(torch='__version__ = "2.9.0"')
    with pytest.raises(MissingDependencyError, match="needs transformers"):
        runtime.load_transformers()


def test_what_is_too_old_is_told_with_what_is_needed(install):
    install(torch='__version__ = "2.5.1"')
    with pytest.raises(BackendStartError, match=r"torch 2\.5\.1 is too old: 2\.6 or newer is needed\. Run: pip"):
        runtime.load_torch()


def test_an_installation_that_lacks_a_part_is_broken_and_not_missing(install):
    install(torch="import no_such_part")
    with pytest.raises(BackendStartError, match=r"No module named 'no_such_part'\. Install it anew"):
        runtime.load_torch()


def test_an_installation_that_fails_in_its_own_way_is_told_as_it_is(install):
    install(torch='raise OSError("libcudart.so: cannot open")')
    with pytest.raises(BackendStartError, match=r"torch cannot be imported: OSError: libcudart\.so: cannot open"):
        runtime.load_torch()


@pytest.mark.usefixtures("install")
def test_a_folder_that_is_called_like_it_is_none(tmp_path):
    (tmp_path / "torch").mkdir()
    with pytest.raises(BackendStartError, match=r"torch is no package: .*torch hides it"):
        runtime.load_torch()


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("2.13.0+cpu", (2, 13)),
        ("5.0.0rc1", (5, 0)),
        ("2.6a0+git1f3a", (2, 6)),
        ("2.6rc1", (2, 6)),
        ("5.21.dev0", (5, 21)),
        ("5", (5, 0)),
        ("", (0, 0)),
        ("unknown", (0, 0)),
    ],
)
def test_versions_are_read_as_far_as_they_are_numbers(text, numbers):
    assert runtime.version_numbers(text) == numbers


@given(st.tuples(st.integers(0, 99), st.integers(0, 99)), st.tuples(st.integers(0, 99), st.integers(0, 99)))
def test_a_version_is_too_old_where_its_numbers_are_lower(found, least):
    old = runtime.too_old("it", f"{found[0]}.{found[1]}.7", least)
    assert bool(old) == (found < least)


def test_an_installed_version_is_found_without_an_import():
    assert runtime.installed_version("no-such-distribution-anywhere") is None
    assert runtime.version_numbers(runtime.installed_version("llamatelemetry-transformers") or "") >= (0, 0)
    assert runtime.installed_version("pytest") == pytest.__version__
