"""A repository whose head does a known amount more than its base, and a process that disturbs one arm of a gate."""

import contextlib
import math
import multiprocessing
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from fashiontl.core.case import Case, Settings
from fashiontl.core.errors import FashiontlError
from fashiontl.matrix import extensions

# Channels of the first stage's activations, on which the extra work is done.
CHANNELS = {"resnet18": 64, "mobilenet_v2": 16}
PROJECT = '[tool.fashiontl]\nextensions = ["gate_real_nets.py"]\n'
MODULE = "gate_real_nets.py"
NETS = '''"""A network whose first stage may do more than it needs to."""

import torch
from torch import nn
from torch.nn import functional

from fashiontl.models.registry import Architecture
from fashiontl.models import build as architectures
from fashiontl.matrix.extensions import register

# Convolutions a pass: in training, and in inference.
CALLS = ({training}, {inference})


class Extra(nn.Module):
    """Convolutions over the first rows of the stage's own activations, whose results are thrown away."""

    def __init__(self):
        super().__init__()
        self.calls = CALLS
        self.register_buffer("kernel", torch.ones(8, {channels}, 3, 3), persistent=False)

    def forward(self, activations):
        with torch.no_grad():
            for _ in range(self.calls[0 if self.training else 1]):
                functional.conv2d(activations[:, :, :3], self.kernel)
        return activations


def build(classes, image_size):
    network = architectures.build("{architecture}", classes, image_size=image_size)
    network.stages["stage1"].append(Extra())
    return network


register(Architecture("{architecture}_extra", family="", minimum_size=1, builder="gate_real_nets:build"))
'''
# Calls from which the cost of one is first estimated, and times that the number is corrected.
_PROBE, _CORRECTIONS = 40, 2
_LEAST_ROUNDS = 15

# How much slower a metric gets by a number of calls, as a share.
Slower = Callable[[str, int], float]


@dataclass(frozen=True)
class Amount:
    """The work that makes one metric slower by a share.

    Attributes:
        calls: of the small convolution in each pass.
        achieved: how much slower they made it when that was measured.
    """

    calls: int
    achieved: float


def nets(architecture: str, training: int = 0, inference: int = 0) -> str:
    """The extension, with so many convolutions a pass besides."""
    return NETS.format(
        architecture=architecture, channels=CHANNELS[architecture], training=training, inference=inference
    )  # fmt: skip


def make_repository(folder: Path, architecture: str) -> None:
    """A repository with one commit, tagged `base`, whose network does nothing besides."""
    folder.mkdir()
    _git(folder, "init", "--quiet")
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / MODULE).write_text(nets(architecture))
    _git(folder, "add", ".")
    _git(folder, "commit", "--quiet", "--message", "base")
    _git(folder, "tag", "base")


def _git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=gate", "-c", "user.email=gate@example.org", "-c", "commit.gpgsign=false")
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, env={**own, **quiet})


def fit(slower: Callable[[int], float], share: float) -> Amount:
    """The number of calls that slows by a share, corrected by what it was measured to do.

    Args:
        slower: measures by what share a number of calls slows.
        share: that is wanted.

    Raises:
        FashiontlError: more calls are not slower.
    """
    calls = _PROBE
    achieved = slower(calls)
    for _ in range(1 + _CORRECTIONS):
        if achieved <= 0:
            raise FashiontlError(
                f"expected {calls} convolutions more to take longer, got {100 * achieved:+.1f} %; give the calibration "
                "a quiet machine"
            )
        calls = max(1, round(calls * share / achieved))
        achieved = slower(calls)
    return Amount(calls, achieved)


def measured(extension: Path, case: Case, settings: Settings, seconds: float) -> Slower:
    """A function that measures in this process how much calls slow a metric: medians of neighbours, in turns.

    It is processor time, which one thread that only computes spends as fast as time goes by, and which does not grow
    while other programs have the core.
    """
    import torch

    from fashiontl.runner.messages import CaseJob
    from fashiontl.runner.workload import Workload
    from fashiontl.timing import torch_flags

    extensions.load([str(extension)])
    torch.set_num_threads(settings.threads)
    torch_flags.fastest()
    work = Workload.of(CaseJob(case, settings))
    starts = work.starts()
    step = work.training_step(starts)
    trained = starts[0].network.stages["stage1"][-1]
    model, image = work.deployed(work.networks()), work.deployed_images(1)
    deployed = next(module for module in model.modules() if type(module).__name__ == "Extra")

    def infer() -> None:
        with torch.inference_mode():
            model(image)

    timed = {"latency": (infer, deployed), "train_throughput": (step, trained)}

    def slower(metric: str, calls: int) -> float:
        call, extra = timed[metric]

        def once(count: int) -> float:
            extra.calls = (count, count)
            started = time.process_time()
            call()
            return time.process_time() - started

        for count in (0, calls) * 5:
            once(count)
        changes: list[float] = []
        started = time.perf_counter()
        while time.perf_counter() - started < seconds or len(changes) < _LEAST_ROUNDS:
            first, second, third, fourth = (once(count) for count in (0, calls, calls, 0))
            changes.append(math.log((second + third) / (first + fourth)))
        return math.expm1(statistics.median(changes))

    return slower


def burn(parent: int, folder: str, seconds: float = 0.01) -> None:
    """Keep a core busy while a process below `parent` that was started in a folder runs; endless.

    A burn lasts beyond the slice that set it off, as threads do that an arm leaves behind. One that ended with the
    slice could not be told from slower code, by nobody who only looks at times.
    """
    children: list[psutil.Process] = []
    looked = -math.inf
    while True:
        if time.monotonic() - looked > 0.1:
            children, looked = _started_in(parent, folder), time.monotonic()
        if any(_runs(child) for child in children):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                pass
        else:
            time.sleep(0.001)


def _started_in(parent: int, folder: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.pid != os.getpid() and child.cwd() == folder:
                found.append(child)
    return found


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_RUNNING)
    except psutil.Error:
        return False


@contextlib.contextmanager
def burning(folder: Path) -> Iterator[None]:
    """Disturb what was started in a folder by this process."""
    process = multiprocessing.get_context("spawn").Process(
        target=burn, args=(os.getpid(), str(folder.resolve())), daemon=True
    )
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()
