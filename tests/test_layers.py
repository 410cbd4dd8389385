"""The architecture, held by tests: imports point down the layers, and what must stay free of torch is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fashiontl"

# From the bottom up; a module may import only from lower rows (and, within a package, from its own).
LAYERS = (
    ("encoding", "escape"),
    ("errors",),
    ("metrics", "stats", "operators", "case", "vision", "modes", "replay"),
    ("recipes", "environment", "nvml", "processes", "comparison"),
    ("conditions", "energy", "locks"),
    ("record",),
    ("architectures", "freezing", "devices", "data", "images", "evaluation", "flops"),
    ("extensions",),
    ("weights", "options", "latency", "profiling", "peak", "variants"),
    ("features", "divergence", "estimate"),
    ("train", "selftest", "sweep"),
    ("steps",),
    ("pretraining", "workload"),
    ("phases",),
    ("forkserver", "worker"),
    ("measure", "leaderboard", "listing", "progress"),
    ("gate", "summary"),
    ("doctor", "gating", "scheduling", "spreading", "ahead", "collecting"),
    ("declaring",),
    ("entry",),
    ("plugin", "cli"),
)
TORCH_FREE = (
    "escape",
    "errors", "metrics", "stats", "case", "recipes", "environment", "record", "options", "latency", "worker",
    "measure", "leaderboard", "progress", "plugin", "entry", "declaring", "cli", "data", "data.tasks", "data.own",
    "extensions",
    "architectures", "freezing", "freezing.policies", "devices", "nvml", "processes", "conditions", "energy",
    "selftest", "locks", "doctor", "sweep", "operators", "gate.report", "gate.stored", "gate.rawfile",
    "gate.baseline_commands", "gate.judge", "gate.plan", "gate.waivers", "gate.runner", "comparison", "spreading",
    "encoding", "summary", "estimate", "ahead",
)  # fmt: skip


def imported(path: Path) -> set[str]:
    """Rooms of this package that a file imports when it is loaded or later."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fashiontl":
            parts = node.module.split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    assert room in level, f"give {room} a layer"
    upward = {other for other in imported(path) - {room} if level[other] >= level[room]}
    assert not upward, f"{room} imports upward: {upward}"


def test_what_judges_and_renders_needs_no_torch() -> None:
    modules = ", ".join(f"fashiontl.{name}" for name in TORCH_FREE)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_file_is_too_long() -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path: length for path, length in lengths.items() if length >= 400} == {}
