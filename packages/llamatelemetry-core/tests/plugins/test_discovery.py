"""What is found in metadata, and what broken metadata does to the rest."""

from __future__ import annotations

from typing import Any


def write(shelf: Any, folder: str, name: str, content: bytes) -> None:
    info = shelf.folder / folder
    info.mkdir(exist_ok=True)
    (info / name).write_bytes(content)


def test_other_distributions_with_broken_metadata_are_nobodys_problem(shelf: Any) -> None:
    shelf.plant("good")
    write(shelf, "foreign-1.dist-info", "entry_points.txt", b"[console_scripts]\nno equals sign\n")
    write(shelf, "binary-1.dist-info", "entry_points.txt", b"\xff\xfe\x00")
    assert shelf.ask("answer = [report.name for report in plugins.reports]") == [
        "good",
        "llamacpp",
        "quantization",
        "transformers",
        "unsloth",
    ]


def test_a_plugin_whose_metadata_cannot_be_read_is_reported_with_its_place(shelf: Any) -> None:
    shelf.plant("good")
    write(shelf, "torn-1.dist-info", "entry_points.txt", b"[llamatelemetry]\ntorn = torn\n")
    reports = shelf.plugins()["reports"]
    assert reports["good"]["state"] == "loaded"
    assert reports["unreadable"]["state"] == "failed"
    assert str(shelf.folder) in reports["unreadable"]["distribution"]
    assert reports["unreadable"]["error"].startswith("its metadata cannot be read: ")
    assert reports["unreadable"]["fix"] == "reinstall or remove that distribution"


def test_of_two_copies_of_a_distribution_the_first_on_the_path_counts(shelf: Any, tmp_path: Any) -> None:
    older = type(shelf)(tmp_path / "older")
    older.folder.mkdir()
    older.plant("good", "raise AssertionError('the older copy')", version="0.9")
    shelf.plant("good")
    env = {"PYTHONPATH": f"{shelf.folder}:{older.folder}"}
    versions = "answer = [report.version for report in plugins.reports if report.name == 'good']"
    assert shelf.ask(versions, env) == ["1.0"]
