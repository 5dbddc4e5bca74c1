from __future__ import annotations

import pytest

from llamatelemetry import errors


def test_every_error_is_one_of_ours_and_says_its_type_in_few_words() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(classes) > 15
    assert all(issubclass(each, errors.LlamatelemetryError) for each in classes)


def test_an_invalid_value_names_field_value_and_fix() -> None:
    error = errors.InvalidRequestError("max_tokens", 0, "give at least 1")
    assert str(error) == "max_tokens=0 is not valid: give at least 1"
    assert isinstance(error, ValueError)
    assert error.error_type == "InvalidRequestError"


def test_a_huge_value_does_not_flood_the_message() -> None:
    assert len(str(errors.ConfigurationError("x", "y" * 10_000, "less"))) < 200


def test_a_refusal_is_told_by_its_http_status_unless_its_class_says_more() -> None:
    assert errors.BackendResponseError("no", status=400).error_type == "400"
    assert errors.BackendResponseError("no").error_type == "BackendResponseError"
    assert errors.ContextOverflowError(9000, 4096, status=400).error_type == "ContextOverflowError"


def test_an_overflow_carries_both_numbers() -> None:
    error = errors.ContextOverflowError(9000, 4096)
    assert (error.prompt_tokens, error.context_length) == (9000, 4096)
    assert "9000" in str(error)
    assert "4096" in str(error)


def test_a_start_failure_shows_the_last_log_lines() -> None:
    error = errors.BackendStartError("exited with 1", ("loading", "out of memory"))
    assert str(error).splitlines() == ["exited with 1", "Last log lines:", "  loading", "  out of memory"]


def test_what_is_missing_comes_with_the_command_that_installs_it() -> None:
    with pytest.raises(ImportError, match="Run: pip install x"):
        raise errors.MissingDependencyError("the exporter", "x", "pip install x")


def test_gpus_that_cannot_be_read_come_with_the_drivers_state_and_a_fix() -> None:
    error = errors.GPUUnavailableError("no_driver", "No NVIDIA driver was found.", "install one")
    assert str(error) == "No NVIDIA driver was found: install one"
    assert (error.state, error.message, error.fix) == ("no_driver", "No NVIDIA driver was found.", "install one")
    assert str(errors.GPUUnavailableError("lost", "The GPU was lost.")) == "The GPU was lost."


def test_memory_that_ran_out_says_where_when_and_what_helps() -> None:
    error = errors.OutOfMemoryError("cuda:0", "while it loaded", "load it in four bits")
    assert str(error) == "cuda:0 ran out of memory while it loaded: load it in four bits"
    assert (error.device, error.kind, error.error_type) == ("cuda:0", "out_of_memory", "OutOfMemoryError")
