"""What must not load torch does not. That imports point down the list of packages is import-linter's to check."""

import subprocess
import sys

TORCH_FREE = (
    "cli", "core.accuracy", "core.case", "core.errors", "core.escape", "core.files", "core.metrics", "core.slices",
    "core.states", "core.stats", "data", "data.image_folder", "data.tasks", "doctor", "freezing", "freezing.policies",
    "gate.commands", "gate.comparison", "gate.judge", "gate.plan", "gate.raw", "gate.report", "gate.runner",
    "gate.waivers", "machine.conditions", "machine.devices", "machine.disturbance", "machine.energy",
    "machine.environment", "machine.locks", "machine.nvml", "matrix.extensions", "matrix.options", "models.registry",
    "plugin", "profiling.operators", "records", "reports.leaderboard.page", "reports.progress", "reports.summary",
    "runner.cell", "runner.client", "runner.estimate", "runner.live", "runner.rounds", "runner.subjects",
    "runner.variables", "session.declaring", "session.entry", "timing.loops", "timing.slices", "timing.sweep",
    "training.recipes",
)  # fmt: skip


def test_what_judges_and_renders_needs_no_torch() -> None:
    modules = ", ".join(f"fashiontl.{name}" for name in TORCH_FREE)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
