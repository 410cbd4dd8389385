"""A small git repository with an architecture of its own, for the tests of the gate."""

import os
import subprocess
from pathlib import Path

from fashiontl.core.case import Case

# `{extra}` is what a layer does besides; a name is a network's.
NETS = """
import time

import torch
from torch import nn

from fashiontl.models.registry import Architecture
from fashiontl.models.network import Network
from fashiontl.matrix.extensions import register


class Extra(nn.Module):
    def forward(self, images):
{extra}
        return images


def build(classes, image_size):
    return Network(
        {{
            "stem": [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()],
            "stage1": [nn.Conv2d(8, 16, 3, stride=2, padding=1), Extra(), nn.BatchNorm2d(16), nn.ReLU()],
            "neck": [nn.AdaptiveAvgPool2d(1), nn.Flatten()],
            "head": [nn.Linear(16, classes)],
        }}
    )


for name in {names}:
    register(Architecture(name, family="", minimum_size=1, builder="nets:build"))
"""
PROJECT = '[tool.fashiontl]\nextensions = ["nets.py"]\n'
CASE = Case("tiny", "full", weights="none")


def git(folder: Path, *arguments: str) -> str:
    """Run git as nobody in particular."""
    identity = {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env={**own, **identity, **quiet}
    ).stdout.strip()


def nets(extra: str = "pass", names: tuple[str, ...] = ("tiny",)) -> str:
    """The text of the extension."""
    lines = "\n".join(f"        {line}" for line in extra.splitlines())
    return NETS.format(extra=lines, names=repr(list(names)))


def repository(folder: Path, files: dict[str, str] | None = None) -> Path:
    """Make a repository with one commit, tagged `base`."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    for name, text in (files or {"pyproject.toml": PROJECT, "nets.py": nets()}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "base")
    git(folder, "tag", "base")
    return folder
