"""The pytest plug-in: options become the matrix, each case a test, each record a line in the run's file."""

import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from fashiontl.core.case import Case
from fashiontl.core.errors import FashiontlError, explain
from fashiontl.core.escape import to_line, to_terminal, to_terminal_line
from fashiontl.matrix.extensions import chosen
from fashiontl.matrix.options import AXES, matrix
from fashiontl.reports.progress import ProgressLine
from fashiontl.session import collecting, entry, gating
from fashiontl.session.collecting import CELL, GATED_CELL, UNSEEN_DEVICE
from fashiontl.session.declaring import declare, read
from fashiontl.session.replay import ReplayTimer


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the matrix's options, unless `fashiontl.session.entry` will when all others have been declared."""
    config: Any = pluginmanager.get_plugin("pytestconfig")
    # With `-p` this comes before the plug-ins that pytest finds itself, and before `pytest_load_initial_conftests`.
    early = entry.BENCH in getattr(config, "known_args_namespace", config.option).plugins
    if not (early or pluginmanager.hasplugin("fashiontl")):
        declare(config, parser, [])


pytest_load_initial_conftests = entry.pytest_load_initial_conftests


# Under which the processes of pytest-xdist find what they share.
_SHARED = "fashiontl_run"


class Run:
    """One session's matrix, its run file and what measures, which starts with the first case."""

    def __init__(self, config: pytest.Config) -> None:
        self.option = option = read(config)
        self.config = config
        self.results = Path(option.results)
        axes = {name: getattr(option, name) for name in AXES}
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

    @property
    def has_started(self) -> bool:
        """Whether there were cases to measure, here or in processes of pytest-xdist."""
        return self._own is not None

    @property
    def path(self) -> Path:
        """The run's file; the processes of pytest-xdist share their controller's."""
        return Path(self.shared["path"])

    @property
    def finished(self) -> set[str]:
        """Ids of cases that a resumed run has measured already."""
        return set(self.shared["finished"])

    @property
    def shared(self) -> dict[str, Any]:
        """What the processes of pytest-xdist must know."""
        if hasattr(self.config, "workerinput"):
            shared: dict[str, Any] = self.config.workerinput[_SHARED]
            return shared
        if self._own is None:
            self._own = self._begin()
        return self._own

    def _begin(self) -> dict[str, Any]:
        from fashiontl.machine.environment import choose_threads, machine_key, read_environment
        from fashiontl.records import RunFile, new_run_path, resumable
        from fashiontl.runner.variables import recorded, variables

        threads = choose_threads(self.settings.threads).count
        environment = read_environment(
            {}, threads=threads, variables=recorded(variables(self.settings.allocator, threads))
        )
        machine = machine_key(environment)
        if self.option.resume:
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
        """What measures cases, with its workers."""
        from fashiontl.runner.cell import Measurer

        if self._measurer is None:
            path = self.path
            self._measurer = Measurer(
                self.settings, self.results, path.stem, path.parent.name, extensions=self.extensions
            )
        return self._measurer

    def look_ahead(self, session: pytest.Session, calls: Sequence[Any]) -> None:
        """Predict how long the cases of tests take, and begin with the cheap ones where the order is free."""
        from fashiontl.runner.cell import cache_folder
        from fashiontl.runner.estimate import Estimate, cheapest_first, costs

        cases = [_case(call) for call in calls]
        if self.finished >= {case.id for case in cases}:
            return
        self.line.say("counting what the cases compute")
        works = {case.id: work for case in cases if (work := self.measurer.count(case))}
        if self.option.arch in ([], ["all"]) and collecting.order_is_free(self.config, cases, self.cases):
            cases = cheapest_first(cases, costs(cases, self.settings, works, cache_folder()))
            rank = {case.id: number for number, case in enumerate(cases)}
            ours = set(calls)
            others = [item for item in session.items if item not in ours]
            session.items[:] = others + sorted(calls, key=lambda call: rank[_case(call).id])
        cases = [case for case in cases if case.id not in self.finished]
        self.measurer.expect(cases)
        self.line.predict(Estimate(cases, costs(cases, self.settings, works, cache_folder())))

    def measure(self, case: Case, test: str) -> Any:
        """Measure one case as the test of an id, and save its record before anything else happens."""
        from fashiontl.records import RunFile

        self.line.begin(case.id)
        record = self.measurer.measure(case, self.line.update)
        self.said += RunFile(self.path).append(record)
        if self.line.end(record):
            self.reported.add(test)
        return record

    def close(self) -> None:
        """End the workers."""
        if self._measurer is not None:
            self._measurer.close()


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
            pytest.skip(to_terminal_line(f"measured already in {self.run.path} (--resume)"))
        try:
            record = self.run.measure(self.case, self.test)
        except FashiontlError as error:
            pytest.fail(to_terminal(f"{to_line(self.case.id)}: {error}"), pytrace=False)
        if record.status == "skipped":
            pytest.skip(to_terminal_line(record.reason))
        if record.status != "ok":
            pytest.fail(to_terminal(f"{to_line(self.case.id)}: {record.status}: {record.reason}"), pytrace=False)
        return record

    def replay(self, benchmark: Any, samples: Sequence[float]) -> None:
        """Hand samples, in seconds, to pytest-benchmark as if it had taken them itself; its errors are warnings."""
        if not samples:
            return
        self.timer.samples.extend(samples)
        try:
            benchmark.pedantic(lambda: None, rounds=len(samples), iterations=1)
        except Exception as error:  # whatever it objects to, the case went well and has its record
            warnings.warn(f"{self.case.id}: pytest-benchmark did not take its samples: {error!r}", stacklevel=2)


@pytest.fixture(name=CELL)
def _cell(request: pytest.FixtureRequest) -> Cell:
    return Cell(request.param.case, request.param.timer, request.config.stash[_RUN], request.node.nodeid)


@pytest.fixture(name=GATED_CELL)
def _gated_cell(request: pytest.FixtureRequest) -> gating.GatedCell:
    gate = request.config.stash[_RUN].gate
    assert gate is not None, "the plug-in makes it when tests have been collected"
    return gating.GatedCell(request.param, gate)


@pytest.fixture(name=UNSEEN_DEVICE)
def _unseen_device(request: pytest.FixtureRequest) -> Any:
    return request.config.stash[_RUN].measurer.device(request.param)


@pytest.fixture
def cell(fashiontl_cell: Cell) -> Cell:
    """One cell of the matrix."""
    return fashiontl_cell


@pytest.fixture
def gated_cell(fashiontl_gated_cell: gating.GatedCell) -> gating.GatedCell:
    """One cell of the matrix beside the same cell of the gate's base."""
    return fashiontl_gated_cell


@pytest.fixture
def unseen_device(fashiontl_unseen_device: Any) -> Any:
    """The worker's answer about a kind of device that this machine does not seem to have."""
    return fashiontl_unseen_device


@contextmanager
def _exit_on_error() -> Iterator[None]:
    """End the session with one message instead of a traceback, whatever goes wrong."""
    try:
        yield
    except (pytest.exit.Exception, pytest.UsageError):
        raise
    except Exception as error:
        message, code = explain("fashiontl", error)
        pytest.exit(to_terminal(f"\n{message}"), returncode=code)


@_exit_on_error()
def pytest_configure(config: pytest.Config) -> None:
    """Validate all options before anything is collected."""
    if hasattr(config, "workerinput") and _SHARED not in config.workerinput:
        raise pytest.UsageError(
            "expected a bench that pytest-xdist's controller knows of, got one that was met during collection; "
            "name its folder: pytest bench/ -n 2"
        )
    option = read(config)
    errors = gating.option_errors(config, option)
    try:
        config.stash[_RUN] = Run(config)
    except FashiontlError as error:
        errors.insert(0, str(error))
    if errors:
        pytest.exit(to_terminal("\n".join(["", *errors])), returncode=2)


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
    """Leave out tests that this session has no use for; pytest would make skips of them."""
    made = yield
    return collecting.useful(made) if isinstance(made, list) else made


@_exit_on_error()
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each case."""
    run = metafunc.config.stash[_RUN]
    collecting.parametrize(metafunc, run.option, run.cases)


def _case(item: Any) -> Case:
    case: Case = item.callspec.params[CELL].case
    return case


def _asking(session: pytest.Session, fixture: str) -> list[Any]:
    return [item for item in session.items if fixture in getattr(item, "fixturenames", ())]


@_exit_on_error()
def pytest_collection_finish(session: pytest.Session) -> None:
    """Find out that results cannot be written before the first case is measured, not after."""
    run = session.config.stash.get(_RUN, None)
    if run is None:
        return
    if run.option.gate:
        cases = [item.callspec.params[GATED_CELL] for item in _asking(session, GATED_CELL)]
        run.gate = gating.GatedSession(run.option, cases, run.settings, run.line.say)
    calls = _asking(session, CELL)
    if calls and not session.config.option.collectonly:
        run.line.expect(sum(_case(call).id not in run.finished for call in calls))
        # A process of pytest-xdist that exits is replaced by another; their controller can end the session.
        if not hasattr(session.config, "workerinput"):
            _check_writable(run)
        else:
            run.measurer.expect([case for call in calls if (case := _case(call)).id not in run.finished])


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Predict how long the cases take, and begin with the cheap ones where the order is free."""
    run, calls = session.config.stash.get(_RUN, None), _asking(session, CELL)
    idle = session.config.option.collectonly or session.testsfailed or hasattr(session.config, "workerinput")
    if run is None or not calls or idle:
        return
    with _exit_on_error():
        run.look_ahead(session, calls)


@pytest.hookimpl(optionalhook=True)
@_exit_on_error()
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    """The same with pytest-xdist, whose controller collects nothing itself."""
    run = node.config.stash[_RUN]
    if any(test.endswith(f"[{case.id}]") for case in run.cases for test in ids):
        _check_writable(run)


def _check_writable(run: Run) -> None:
    from fashiontl.records import check_writable
    from fashiontl.runner.cell import check_cache

    with _exit_on_error():
        check_writable(run.results)
        check_cache()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a process of pytest-xdist the run's file."""
    with _exit_on_error():
        node.workerinput[_SHARED] = node.config.stash[_RUN].shared


@pytest.hookimpl(optionalhook=True)
@_exit_on_error()
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all cells of a device to one process of pytest-xdist: they are timed in turns, one at a time."""
    devices = {case.id: case.device for case in config.stash[_RUN].cases}
    if config.option.dist != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class OneProcessPerDevice(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return devices.get(nodeid.rpartition("[")[2].removesuffix("]"), nodeid)

    return OneProcessPerDevice(config, log)


def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, str] | None:
    """Leave the letter of a finished case out where it has a line of its own."""
    run = config.stash.get(_RUN, None)
    if run is None or report.when != "call" or report.nodeid not in run.reported:
        return None
    return report.outcome, "", report.outcome.upper()


@_exit_on_error()
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the worker before pytest waits for its children; the gate's exit code is pytest's."""
    run = session.config.stash.get(_RUN, None)
    if run is None:
        return
    run.close()
    if run.option.gate:
        session.exitstatus = gating.exit_status(run.gate, int(session.exitstatus))


@_exit_on_error()
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Write the leaderboard and show what was measured."""
    run = config.stash.get(_RUN, None)
    if run is None:
        return
    if run.gate is not None and run.gate.result is not None:
        from fashiontl.gate import report

        terminalreporter.section("fashiontl gate")
        terminalreporter.write_line(report.terminal(run.gate.result))
        if run.gate.error:
            terminalreporter.write_line(to_terminal(run.gate.error), red=True)
    if not run.has_started or not run.path.exists():
        return
    from fashiontl.reports.summary import write_summary

    write_summary(terminalreporter, run.path, run.results, run.said)
