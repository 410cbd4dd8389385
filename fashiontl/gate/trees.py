"""The two source trees that a gate compares: the working tree, and the base as a worktree of git. No torch."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from fashiontl.core.errors import FashiontlError

HEAD_REF = "working tree"
# A gate's worktree is the second of these in a folder of its own that begins with the first. It holds a lock on the
# third, which the system gives up for it however it ends.
_PREFIX, _TREE, _OWNER = "fashiontl-base-", "tree", "owner.lock"
# A checkout of a large repository on a slow disk; no command here asks a network.
_TIMEOUT = 600.0
# Set in git's hooks; they would turn every command to another repository or index.
_REDIRECTIONS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")
_WITHOUT_RESULTS = (":/", ":(top,exclude)results")
# Bytecode that Python wrote while it loaded the repository's own extensions is not a change of anybody's.
_WITHOUT_BYTECODE = ":(top,exclude,glob)**/__pycache__/**"


@dataclass(frozen=True)
class Checkout:
    """A source tree.

    Attributes:
        ref: as it was asked for; `working tree` for the head.
        commit: full SHA-1.
        dirty: whether tracked files, those below `results` aside, differ from the commit.
        root: folder of the whole tree, without symbolic links.
        folder: the one in it that the gate was called for: the root, or the folder of a project below it.
    """

    ref: str
    commit: str
    dirty: bool
    root: Path
    folder: Path


def working_tree(folder: Path) -> Checkout:
    """The tree that a folder is in, as it is.

    Raises:
        FashiontlError: it is in no git repository, or in one without a commit, or git is missing.
    """
    root = Path(_git(folder, "rev-parse", "--show-toplevel")).resolve()
    commit = _commit(folder, "HEAD")
    if commit is None:
        raise FashiontlError(f"expected a repository with a commit to compare with, got {root} without one; commit")
    # As in a record's environment: untracked files do not count, nor do results that runs rewrite.
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *_WITHOUT_RESULTS)
    return Checkout(HEAD_REF, commit, bool(changes), root, folder.resolve())


def check_apart(folder: Path, ref: str) -> None:
    """See that a base differs from the tree that a folder is in, untracked files included.

    Raises:
        FashiontlError: it names the commit that is checked out, without any change: nothing would be compared.
    """
    head = working_tree(folder)
    changes = _git(head.root, "status", "--porcelain", "--", *_WITHOUT_RESULTS, _WITHOUT_BYTECODE)
    if _commit(head.root, ref) != head.commit or changes:
        return
    raise FashiontlError(
        f"expected --base to name another commit than the working tree is, got {ref!r}, which is that commit "
        f"({(head.commit or '')[:12]}), and nothing is changed; name the one before, as with HEAD~1, or add "
        "--unchanged to learn how far unchanged code scatters here"
    )


@contextmanager
def base_tree(head: Checkout, ref: str) -> Iterator[Checkout]:
    """A worktree of a commit in a temporary folder, removed at the end, also when that is an interrupt or SIGTERM.

    A gate that is killed cannot remove its own: the next one of the repository does. What git does not keep is not in
    it: files that are ignored, such as compiled extensions, and submodules.

    Raises:
        FashiontlError: there is no such commit in the head's repository, or it lacks the head's folder.
    """
    commit = _commit(head.root, ref)
    if commit is None:
        if _run(head.root, "rev-parse", "--is-shallow-repository").stdout.strip() == "true":
            step = "this clone is shallow: git fetch --unshallow, or fetch-depth: 0 in a workflow's actions/checkout"
        else:
            step = " ".join(["git fetch", *(ref.split("/", 1) if "/" in ref else ())])
        raise FashiontlError(
            f"expected --base to name a commit of {head.root}, got {ref!r}, which git does not know here; {step}"
        )
    with _terminated_in_order():
        _remove_abandoned(head.root)
        parent = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        root = parent / _TREE
        owner = FileLock(parent / _OWNER)
        try:
            owner.acquire()
            # A repository's own hook may build or install things after a checkout.
            quiet = ("-c", f"core.hooksPath={os.devnull}")
            _git(head.root, *quiet, "worktree", "add", "--quiet", "--detach", str(root), commit)
            folder = root / head.folder.relative_to(head.root)
            if not folder.is_dir():
                raise FashiontlError(
                    f"expected the folder {head.folder.relative_to(head.root)} in {ref}, got none; "
                    "name a later base, or call the gate in a folder that both have"
                )
            yield Checkout(ref, commit, dirty=False, root=root, folder=folder)
        finally:
            _remove(head.root, root)
            owner.release()


@contextmanager
def _terminated_in_order() -> Iterator[None]:
    """Let SIGTERM, which build servers send to what they cancel, end the program as `sys.exit` does."""
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _remove_abandoned(repository: Path) -> None:
    """Remove worktrees of gates that are gone; what has no lock beside it, or a lock that is held, is left alone."""
    for line in _run(repository, "worktree", "list", "--porcelain").stdout.splitlines():
        root = Path(line.removeprefix("worktree "))
        owner = root.parent / _OWNER
        if root.name == _TREE and root.parent.name.startswith(_PREFIX):
            # Held, which is a timeout, or someone else's.
            with suppress(OSError):
                if owner.is_file():
                    with FileLock(owner, timeout=0):
                        _remove(repository, root)


def _remove(repository: Path, root: Path) -> None:
    """Remove a gate's worktree with its folder, and no other entry of git's, as `git worktree prune` might."""
    try:
        # Twice: git locks a worktree while it makes it, and does not unlock it when it is killed.
        _run(repository, "worktree", "remove", "--force", "--force", str(root))
    finally:
        shutil.rmtree(root.parent, ignore_errors=True)
        # Where the first could not, since part of the folder was gone. Of one that git no longer lists it is an error.
        _run(repository, "worktree", "remove", "--force", "--force", str(root))


def _commit(folder: Path, ref: str) -> str | None:
    """Full SHA-1 of the commit that a ref names; None when there is none."""
    if ref.startswith("-"):
        return None
    return _run(folder, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").stdout.strip() or None


def _git(folder: Path, *arguments: str) -> str:
    """What a command of git prints, which must not fail."""
    done = _run(folder, *arguments)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        step = "call the gate inside a clone" if "not a git repository" in said else "see git's message"
        raise FashiontlError(f"expected a git repository whose commits can be compared in {folder}, got {said}; {step}")
    return done.stdout.strip()


def _run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name not in _REDIRECTIONS}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        return subprocess.run(
            # The file system's monitor would be a program that runs on beside what is measured.
            ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments],
            capture_output=True,
            # Names of folders are bytes of any kind.
            encoding=sys.getfilesystemencoding(),
            errors="surrogateescape",
            timeout=_TIMEOUT,
            check=False,
            env=environment,
        )
    except (FileNotFoundError, PermissionError) as error:
        raise FashiontlError("expected git, which gives the gate its base, got none on PATH; install it") from error
    except subprocess.TimeoutExpired as error:
        raise FashiontlError(f"git {arguments[0]} timed out after {_TIMEOUT:g} s; run it by hand to see why") from error
