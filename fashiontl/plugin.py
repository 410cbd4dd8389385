"""The pytest plug-in: options become the matrix, each case a test, each record a line in the run's file."""

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from fashiontl import gating, spreading
from fashiontl.case import PRESETS, Case
from fashiontl.devices import DEVICES, seen_devices
from fashiontl.errors import FashiontlError
from fashiontl.extensions import chosen
from fashiontl.options import AXES, Axes, matrix
from fashiontl.progress import ProgressLine


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the matrix's options."""
    group = parser.getgroup("fashiontl", "transfer-learning benchmarks")
    for name, title in AXES.items():
        group.addoption(
            f"--{name.replace('_', '-')}",
            action="append",
            default=[],
            metavar="NAMES",
            help=f"{title}; repeat it or separate names with commas, 'all' takes each (see fashiontl list)",
        )
    group.addoption(
        "--fashiontl-plugin",
        action="append",
        default=[],
        metavar="MODULE_OR_FILE",
        help="Python module that registers architectures, policies or tasks of your own; repeat it for several",
    )
    group.addoption("--preset", default="quick", metavar="NAME", help=f"settings: {', '.join(PRESETS)} (quick)")
    group.addoption(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="override one setting of the preset"
    )
    group.addoption("--data-root", default="", metavar="DIR", help="folder with Fashion-MNIST's four files")
    group.addoption("--results", default="results", metavar="DIR", help="where runs and the leaderboard go (results)")
    group.addoption("--resume", action="store_true", help="go on with the newest run: measure only what it lacks")
    spreading.add_option(group)
    gating.add_options(group)


@dataclass
class ReplayTimer:
    """A clock that makes pytest-benchmark read samples taken elsewhere: calls alternate between 0 and a sample."""

    samples: list[float] = field(default_factory=list)
    __name__ = "worker_samples"

    def __post_init__(self) -> None:
        self._readings = self._read()

    def __call__(self) -> float:
        """The next reading, in seconds."""
        return next(self._readings)

    def _read(self) -> Iterator[float]:
        for sample in self.samples:
            yield 0.0
            yield sample


@dataclass(frozen=True)
class _Parameter:
    case: Case
    timer: ReplayTimer


class Run:
    """One session's matrix, its run file and its worker, which starts with the first case."""

    def __init__(self, config: pytest.Config) -> None:
        option = config.option
        self.config = config
        self.results = Path(option.results)
        axes = Axes(**{name: getattr(option, name) for name in AXES})
        self.extensions = chosen(option.fashiontl_plugin, config.invocation_params.dir, config.rootpath)
        self.cases, self.settings = matrix(axes, option.preset, option.set, option.data_root, self.extensions)
        self.line = ProgressLine(config)
        # Ids of the tests that the progress line has reported.
        self.reported: set[str] = set()
        self.gate: gating.GatedSession | None = None
        # What a person should know at the end, such as that a file was repaired.
        self.said: list[str] = []
        self._own: dict[str, Any] | None = None
        self._measurer: Any = None
        self._worker: Any = None

    @property
    def begun(self) -> bool:
        """Whether there were cases to measure, here or in processes of pytest-xdist."""
        return self._own is not None

    @property
    def path(self) -> Path:
        """The run's file; the processes of pytest-xdist share their controller's."""
        return Path(self._shared["path"])

    @property
    def finished(self) -> set[str]:
        """Ids of cases that a resumed run has measured already."""
        return set(self._shared["finished"])

    @property
    def _shared(self) -> dict[str, Any]:
        key = "fashiontl_run"
        if hasattr(self.config, "workerinput"):
            shared: dict[str, Any] = self.config.workerinput[key]
            return shared
        if self._own is None:
            self._own = self._begin()
        return self._own

    def share(self, process: str) -> dict[str, Any]:
        """What a process of pytest-xdist must know."""
        placed = spreading.placed(self.equal_devices, process) if self.config.option.spread else {}
        return {**self._shared, "placed": placed}

    @cached_property
    def equal_devices(self) -> list[str]:
        """Those that share the cases with --spread."""
        # The controller asks once: if each process asked, it would disturb what others measure by then.
        option = self.config.option
        equal = spreading.equal_devices(self.measurer.device, self.cases[0].device, option.numprocesses)
        self.close()
        return equal

    def _begin(self) -> dict[str, Any]:
        from fashiontl.environment import machine_key, read_environment
        from fashiontl.record import RunFile, new_run_path, resumable
        from fashiontl.worker import usable_cores

        environment = read_environment({}, threads=self.settings.threads or usable_cores())
        machine = machine_key(environment)
        if self.config.option.resume:
            path, finished = resumable(self.results, machine, self.settings)
            if path is not None:
                try:
                    self.said += RunFile(path).repair()
                except FashiontlError as error:  # measuring will tell where its records go
                    self.said.append(str(error))
                return {"path": str(path), "finished": sorted(finished)}
        path = new_run_path(self.results, machine, environment.git_sha, datetime.now(UTC), uuid4().hex[:6])
        return {"path": str(path), "finished": []}

    @property
    def measurer(self) -> Any:
        """What measures cases, with its worker."""
        from fashiontl.measure import Measurer
        from fashiontl.worker import Worker

        if self._measurer is None:
            self._worker = Worker(self.settings.threads)
            placed = self._shared.get("placed")
            self._measurer = Measurer(
                self._worker, self.settings, self.results, self.path.stem, extensions=self.extensions, placed=placed
            )
        return self._measurer

    def measure(self, case: Case, test: str) -> Any:
        """Measure one case as the test of an id, and save its record before anything else happens."""
        from fashiontl.record import RunFile

        self.line.begin(case.id)
        record = self.measurer.measure(case, self.line.update)
        self.said += RunFile(self.path).append(record)
        if self.line.end(record):
            self.reported.add(test)
        return record

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()


_RUN = pytest.StashKey[Run]()


@dataclass(frozen=True)
class Cell:
    """One case as a test sees it."""

    case: Case
    timer: ReplayTimer
    run: Run
    test: str

    def measure(self) -> Any:
        """Measure the case; a skip or a failure when its record is not ok."""
        __tracebackhide__ = True  # pytest names the test, not this line, as the place of a skip
        if self.case.id in self.run.finished:
            pytest.skip(f"measured already in {self.run.path} (--resume)")
        try:
            record = self.run.measure(self.case, self.test)
        except FashiontlError as error:
            pytest.fail(f"{self.case.id}: {error}", pytrace=False)
        if record.status == "skipped":
            pytest.skip(record.reason)
        if record.status != "ok":
            pytest.fail(f"{self.case.id}: {record.status}: {record.reason}", pytrace=False)
        return record

    def replay(self, benchmark: Any, samples: Sequence[float]) -> None:
        """Hand samples, in seconds, to pytest-benchmark as if it had taken them itself; its faults are warnings."""
        if not samples:
            return
        self.timer.samples.extend(samples)
        try:
            benchmark.pedantic(lambda: None, rounds=len(samples), iterations=1)
        except Exception as error:  # whatever it objects to, the case went well and has its record
            warnings.warn(f"{self.case.id}: pytest-benchmark did not take its samples: {error!r}", stacklevel=2)


@pytest.fixture
def cell(request: pytest.FixtureRequest) -> Cell:
    """One cell of the matrix."""
    return Cell(request.param.case, request.param.timer, request.config.stash[_RUN], request.node.nodeid)


@pytest.fixture
def gated_cell(request: pytest.FixtureRequest) -> gating.GatedCell:
    """One cell of the matrix beside the same cell of the gate's base."""
    gate = request.config.stash[_RUN].gate
    assert gate is not None, "the plug-in makes it when tests have been collected"
    return gating.GatedCell(request.param, gate)


@pytest.fixture
def unseen_device(request: pytest.FixtureRequest) -> Any:
    """The worker's answer about a kind of device that this machine does not seem to have."""
    return request.config.stash[_RUN].measurer.device(request.param)


def pytest_configure(config: pytest.Config) -> None:
    """Validate all options before anything is collected."""
    faults = spreading.faults(config)
    try:
        config.stash[_RUN] = Run(config)
    except FashiontlError as error:
        faults.insert(0, str(error))
    if faults:
        pytest.exit("\n" + "\n".join(faults), returncode=2)


@contextmanager
def _exit_on_fault() -> Iterator[None]:
    try:
        yield
    except FashiontlError as error:
        pytest.exit(f"\n{error}", returncode=2)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which GPUs share the cases with --spread."""
    if not config.option.spread or config.option.collectonly or hasattr(config, "workerinput"):
        return None
    with _exit_on_fault():
        return f"fashiontl: spread over {', '.join(config.stash[_RUN].equal_devices)}"


def _unseen(config: pytest.Config) -> list[str]:
    """Kinds of devices that this machine seems not to have; none when the user says which ones are wanted."""
    return [] if config.option.device else [name for name in DEVICES if name not in seen_devices()]


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> list[pytest.Item] | None:
    """Leave out tests that this session has no use for; pytest would make skips of them."""
    fixtures = inspect.signature(obj).parameters if inspect.isfunction(obj) else {}
    gated = bool(collector.config.option.gate)
    idle = {"unseen_device": gated or not _unseen(collector.config), "cell": gated, "gated_cell": not gated}
    return [] if any(idle.get(name) for name in fixtures) else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each case."""
    if "unseen_device" in metafunc.fixturenames:
        metafunc.parametrize("unseen_device", _unseen(metafunc.config), indirect=True)
    if "gated_cell" in metafunc.fixturenames:
        cases = metafunc.config.stash[_RUN].cases
        metafunc.parametrize("gated_cell", cases, ids=[case.id for case in cases], indirect=True)
    if "cell" not in metafunc.fixturenames:
        return
    parameters = []
    for case in metafunc.config.stash[_RUN].cases:
        timer = ReplayTimer()
        mark = pytest.mark.benchmark(group=f"latency {case.task} {case.device}", timer=timer)
        parameters.append(pytest.param(_Parameter(case, timer), id=case.id, marks=mark))
    metafunc.parametrize("cell", parameters, indirect=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Find out that results cannot be written before the first case is measured, not after."""
    run = session.config.stash[_RUN]
    if session.config.option.gate:
        run.gate = _gated_session(session, run)
    calls: list[Any] = [item for item in session.items if "cell" in getattr(item, "fixturenames", ())]
    if calls and not session.config.option.collectonly:
        ids = [item.callspec.params["cell"].case.id for item in calls]
        run.line.expect(sum(case_id not in run.finished for case_id in ids))
        # A process of pytest-xdist that exits is replaced by another; their controller can end the session.
        if not hasattr(session.config, "workerinput"):
            _check_writable(run)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    """The same with pytest-xdist, whose controller collects nothing itself."""
    run = node.config.stash[_RUN]
    if any(test.endswith(f"[{case.id}]") for case in run.cases for test in ids):
        _check_writable(run)


def _gated_session(session: pytest.Session, run: Run) -> gating.GatedSession:
    option = session.config.option
    if getattr(option, "numprocesses", None) or hasattr(session.config, "workerinput"):
        pytest.exit("\nexpected the gate in one process, got pytest-xdist's -n; leave it out", returncode=2)
    gated: list[Any] = [item for item in session.items if "gated_cell" in getattr(item, "fixturenames", ())]
    return gating.GatedSession(
        option.gate,
        [item.callspec.params["gated_cell"] for item in gated],
        run.settings,
        run.results,
        option.fashiontl_plugin,
        60 * option.gate_budget,
        option.gate_accuracy,
        Path(option.gate_json) if option.gate_json else None,
        run.line.say,
    )


def _check_writable(run: Run) -> None:
    from fashiontl.measure import check_cache
    from fashiontl.record import check_writable

    with _exit_on_fault():
        check_writable(run.results)
        check_cache()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a process of pytest-xdist the run's file and, with --spread, its device."""
    with _exit_on_fault():
        node.workerinput["fashiontl_run"] = node.config.stash[_RUN].share(node.workerinput["workerid"])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several devices or --spread are asked for, say which cases one process of pytest-xdist takes."""
    option, cases = config.option, config.stash[_RUN].cases
    several = option.device and len({case.device for case in cases}) > 1
    if option.dist != "load" or not (several or option.spread):
        return None
    from fashiontl.scheduling import OneProcessAScope

    scopes = spreading.scopes(cases) if option.spread else {case.id: case.device for case in cases}
    return OneProcessAScope(config, log, scopes)


def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, str] | None:
    """Leave the letter of a finished case out where it has a line of its own."""
    if report.when != "call" or report.nodeid not in config.stash[_RUN].reported:
        return None
    return report.outcome, "", report.outcome.upper()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the worker before pytest waits for its children; the gate's exit code is pytest's."""
    run = session.config.stash[_RUN]
    run.close()
    if run.gate is not None and session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        session.exitstatus = run.gate.exit_code or session.exitstatus


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Write the leaderboard and show what was measured."""
    run = config.stash[_RUN]
    if run.gate is not None and run.gate.verdict is not None:
        from fashiontl.gate import report

        terminalreporter.section("fashiontl gate")
        terminalreporter.write_line(report.terminal(run.gate.verdict))
    if not run.begun or not run.path.exists():
        return
    from fashiontl.summary import write_summary

    write_summary(terminalreporter, run.path, run.results, run.said)
