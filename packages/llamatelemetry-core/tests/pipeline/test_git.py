"""The commit of a working tree, against what git itself says of real repositories."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from llamatelemetry.pipeline.git import commit_of

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git makes the repositories")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "first")
    return folder


def test_it_is_that_of_the_branch_also_from_a_folder_below(repository):
    (repository / "src" / "deep").mkdir(parents=True)
    assert commit_of(repository) == commit_of(repository / "src" / "deep") == git(repository, "rev-parse", "HEAD")


def test_it_is_found_where_refs_are_packed(repository):
    git(repository, "branch", "other")
    git(repository, "pack-refs", "--all")
    assert commit_of(repository) == git(repository, "rev-parse", "HEAD")


def test_it_is_found_where_no_branch_is_checked_out(repository):
    git(repository, "checkout", "--quiet", "--detach")
    assert commit_of(repository) == git(repository, "rev-parse", "HEAD")


def test_a_linked_working_tree_has_its_own(repository, tmp_path):
    linked = tmp_path / "linked"
    git(repository, "worktree", "add", "--quiet", str(linked), "-b", "side")
    git(linked, "commit", "--quiet", "--allow-empty", "--message", "second")
    assert commit_of(linked) == git(linked, "rev-parse", "HEAD") != commit_of(repository)


def test_without_a_repository_or_a_commit_there_is_none(tmp_path):
    assert commit_of(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert commit_of(tmp_path) is None


@pytest.mark.parametrize("head", ["", "ref: ../../etc/passwd", "ref: refs/heads/none", "not a commit", "\udcff"])
def test_a_damaged_repository_has_none(tmp_path, head):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_bytes(head.encode("utf-8", "surrogateescape"))
    assert commit_of(tmp_path) is None
