import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gate_repository import git, repository

from fashiontl.core.errors import FashiontlError
from fashiontl.gate.trees import HEAD_REF, base_tree, working_tree


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("shared"), {"a.txt": "one", "below/b.txt": "two", "results/c.md": "x"})


def worktrees(folder: Path) -> int:
    return git(folder, "worktree", "list", "--porcelain").count("worktree ")


def test_the_base_is_its_commit_and_the_head_is_as_it_is(tmp_path: Path) -> None:
    folder = repository(tmp_path / "one", {"a.txt": "one"})
    (folder / "a.txt").write_text("two")
    (folder / "new.txt").write_text("not tracked")
    head = working_tree(folder)
    sha = git(folder, "rev-parse", "HEAD")
    assert (head.ref, head.commit, head.dirty, head.root) == (HEAD_REF, sha, True, folder.resolve())
    with base_tree(head, "base") as base:
        assert (base.ref, base.commit, base.dirty) == ("base", sha, False)
        assert (base.folder / "a.txt").read_text() == "one"
        assert not (base.folder / "new.txt").exists()
        assert (head.folder / "a.txt").read_text() == "two"
        assert worktrees(folder) == 2
    assert not base.root.parent.exists()
    assert worktrees(folder) == 1


def test_results_and_new_files_make_no_tree_dirty(tmp_path: Path) -> None:
    folder = repository(tmp_path / "one", {"a.txt": "one", "results/leaderboard.md": "x"})
    (folder / "results" / "leaderboard.md").write_text("y")
    (folder / "new.txt").write_text("z")
    assert working_tree(folder).dirty is False


def test_a_project_that_the_base_lacks(tmp_path: Path) -> None:
    folder = repository(tmp_path / "one", {"a.txt": "one"})
    (folder / "fresh").mkdir()
    with (
        pytest.raises(FashiontlError, match="expected the folder fresh in base, got none; name a later base"),
        base_tree(working_tree(folder / "fresh"), "base"),
    ):
        raise AssertionError
    assert worktrees(folder) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_worktree_is_gone_whatever_happens(shared: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), base_tree(working_tree(shared), "base") as base:
        raise error
    assert not base.root.exists()
    assert worktrees(shared) == 1


def test_the_worktree_is_gone_when_the_program_is_terminated(shared: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, base_tree(working_tree(shared), "base"):
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM
    assert worktrees(shared) == 1
    assert signal.getsignal(signal.SIGTERM) is before is signal.SIG_DFL


# A gate as far as its base's worktree, of which it tells the folder.
GATE = """
import sys
from pathlib import Path
from fashiontl.gate.trees import base_tree, working_tree
with base_tree(working_tree(Path(sys.argv[1])), "base") as base:
    print(base.root, flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_gate(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    with subprocess.Popen(
        [sys.executable, "-c", GATE, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())


def killed_gate(folder: Path) -> Path:
    with another_gate(folder) as (process, root):
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert (root / "a.txt").exists()
    return root


def test_the_worktree_of_a_killed_gate_is_removed_by_the_next(shared: Path) -> None:
    left = [killed_gate(shared)]
    assert worktrees(shared) == 2
    with base_tree(working_tree(shared), "base"):
        assert worktrees(shared) == 2
        assert not left[0].parent.exists()
    assert worktrees(shared) == 1


def test_the_worktree_of_a_gate_that_runs_is_left_alone(shared: Path) -> None:
    with another_gate(shared) as (process, root):
        with base_tree(working_tree(shared), "base"):
            assert worktrees(shared) == 3
        assert (root / "a.txt").exists()
        process.communicate("")
    assert process.returncode == 0
    assert not root.parent.exists()
    assert worktrees(shared) == 1


def test_worktrees_of_the_users_own_are_left_alone(shared: Path, tmp_path: Path) -> None:
    alike, away = tmp_path / "fashiontl-base-mine" / "tree", tmp_path / "away"
    for folder in (alike, away):
        git(shared, "worktree", "add", "--quiet", "--detach", str(folder), "base")
    # As on a drive that is not here just now, which `git worktree prune` would forget.
    away.rename(tmp_path / "elsewhere")
    killed_gate(shared)
    with base_tree(working_tree(shared), "base"):
        pass
    assert (alike / "a.txt").exists()
    assert worktrees(shared) == 3
    for folder in (alike, away):
        git(shared, "worktree", "remove", "--force", str(folder))


def test_a_hook_neither_runs_nor_redirects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = repository(tmp_path / "one", {"a.txt": "one"})
    hook = folder / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    hook.chmod(0o755)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    with base_tree(working_tree(folder), "base") as base:
        assert (base.root / "a.txt").exists()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("ref", "step"),
    [
        ("origin/main", "git fetch origin main"),
        ("v1", "git fetch"),
        ("--help", "git fetch"),
        ("base:a.txt", "git fetch"),
    ],
)
def test_an_unknown_ref_says_what_to_fetch(shared: Path, ref: str, step: str) -> None:
    with pytest.raises(FashiontlError) as caught, base_tree(working_tree(shared), ref):
        raise AssertionError
    assert str(caught.value) == (
        f"expected --base to name a commit of {shared.resolve()}, got {ref!r}, which git does not know here; {step}"
    )


def test_a_shallow_clone_says_how_to_deepen(shared: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{shared}", "clone")
    with (
        pytest.raises(FashiontlError, match="this clone is shallow: git fetch --unshallow"),
        base_tree(working_tree(tmp_path / "clone"), "HEAD~1"),
    ):
        raise AssertionError
