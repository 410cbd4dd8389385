import gzip
import json
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent
from torch.profiler import ProfilerActivity

from fashiontl.machine.devices import Cpu
from fashiontl.profiling import capture
from fashiontl.profiling.capture import module_ranges, profile_steps, profiler_is_on
from fashiontl.profiling.events import MODULE_PREFIX, Tables, tables
from fashiontl.profiling.operators import OTHERS, Kernel, Profile

CPU = [ProfilerActivity.CPU]


class Slow(nn.Module):
    """A planted layer: a product of large matrices, far more work than all the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(700, 700))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * (self.weight @ self.weight).mean()


class Workload:
    """A training step of a small network whose activation is one module, called twice."""

    def __init__(self) -> None:
        self.steps = 0
        self.waits = 0
        shared = nn.ReLU()
        self.network = nn.Sequential(
            nn.Linear(8, 8), shared, nn.Sequential(nn.Identity(), Slow()), nn.Linear(8, 8), shared, nn.Linear(8, 3)
        )
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1)
        self.inputs, self.labels = torch.ones(4, 8), torch.zeros(4, dtype=torch.long)

    def step(self) -> None:
        self.steps += 1
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.network(self.inputs), self.labels).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    @property
    def device(self) -> Cpu:
        """Counts how often it is waited for."""
        work = self

        class Counting(Cpu):
            def synchronize(self) -> None:
                work.waits += 1

        return Counting()


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


@pytest.fixture(scope="module")
def workload() -> Workload:
    return Workload()


@pytest.fixture(scope="module")
def profiled(workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    folder = tmp_path_factory.mktemp("traces") / "made" / "when needed"
    begun = time.perf_counter()
    profile = profile_steps(workload.step, workload.device, folder, "resnet18-full-cpu", modules={"": workload.network})
    # In seconds, whatever the machine does: the steps are a part of it.
    assert 0 < profile.steps * profile.step_s <= time.perf_counter() - begun
    return profile


def test_operators_are_of_one_step_and_sorted_by_self_time(workload: Workload, profiled: Profile) -> None:
    assert (workload.steps, workload.waits, profiled.steps) == (3, 3, 2)
    named = [row for row in profiled.operators if row.name != OTHERS]
    times = [row.self_s for row in named]
    assert times == sorted(times, reverse=True)
    assert sum(row.self_s for row in profiled.operators) <= profiled.step_s
    assert not [row.name for row in named if row.name.startswith(("ProfilerStep", MODULE_PREFIX))]
    assert len({(row.name, row.module, row.phase) for row in named}) == len(named)
    assert (profiled.kernels, profiled.device_idle, profiled.warnings) == ((), None, ())
    (product,) = [row for row in named if (row.name, row.phase) == ("aten::mm", "forward")]
    assert (product.calls, product.flops) == (1.0, 2 * 700**3)


def test_a_planted_slow_layer_is_found_in_forward_and_backward(profiled: Profile) -> None:
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for row in profiled.operators:
        if row.name != OTHERS:
            seconds[row.module, row.phase] += row.self_s
    for phase in ("forward", "backward"):
        assert max((place for place in seconds if place[1] == phase), key=lambda place: seconds[place])[0] == "2.1"


def record(step: Callable[[], object], **modules: nn.Module) -> Tables:
    with module_ranges(modules), torch.profiler.profile(activities=CPU) as profiler:
        step()
    return tables(profiler.events(), 1)


def test_every_operator_has_its_module_and_phase() -> None:
    work = Workload()
    calls = {(row.name, row.module, row.phase): row.calls for row in record(work.step, net=work.network).operators}
    assert calls["aten::addmm", "net.0", "forward"] == 1
    assert calls["aten::relu", "net.1", "forward"] == 2, "one module, two calls"
    assert calls["ReluBackward0", "net.1", "backward"] == 2
    assert calls["AddmmBackward0", "net.5", "backward"] == 1
    assert calls["aten::mm", "net.5", "backward"] == 2, "the gradients of inputs and of weights"
    assert calls["aten::log_softmax", "", "forward"] == 1
    assert calls["LogSoftmaxBackward0", "", "backward"] == 1
    assert calls["torch::autograd::AccumulateGrad", "", "backward"] == 7
    assert calls["Optimizer.step#SGD.step", "", "other"] == 1
    assert calls["aten::add_", "", "other"] == 7, "the optimiser's"
    assert calls["aten::add_", "net.2.1", "backward"] == 1, "one weight, two gradients"


def test_a_convolution_has_its_flops_where_its_time_is() -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1)
    images = torch.ones(2, 3, 16, 16)
    with (
        torch.no_grad(),
        module_ranges({"conv": layer}),
        torch.profiler.profile(activities=CPU, record_shapes=True, with_flops=True) as profiler,
    ):
        layer(images)
    rows = [row for row in tables(profiler.events(), 1).operators if row.flops]
    assert [(row.module, row.phase, row.flops) for row in rows] == [("conv", "forward", 2 * 2 * 8 * 3 * 9 * 16 * 16)]
    assert rows[0].name != "aten::conv2d"


class Failing(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, _: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize("error", [ValueError("in a layer"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_ranges_and_hooks_are_gone_after_a_step_that_raises(error: BaseException, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Identity(), Failing(error))
    with pytest.raises(type(error)):
        profile_steps(lambda: network(torch.ones(1)), Cpu(), tmp_path / "none", "x", modules={"": network})
    assert hooks(network) == 0
    assert not profiler_is_on()
    assert not (tmp_path / "none").exists()
    with torch.profiler.profile(activities=CPU) as profiler:
        with suppress(type(error)), module_ranges({"net": network}):
            network(torch.ones(1))
        torch.ones(1)
    rows = tables(profiler.events(), 1).operators
    assert {(row.module, row.phase) for row in rows if row.name == "aten::fill_"} == {("", "other")}


def on_device(name: str, start: float, end: float, **values: Any) -> FunctionEvent:
    return FunctionEvent(0, name, 7, start, end, use_device="cuda", device_type=DeviceType.CUDA, **values)


def on_host(name: str, start: float, end: float, *kernels: FunctionEvent, **values: Any) -> FunctionEvent:
    event = FunctionEvent(1, name, 1, start, end, use_device="cuda", **values)
    for kernel in kernels:
        event.append_kernel(kernel.name, 0, kernel.time_range.elapsed_us())
    return event


def cuda_tables(*events: FunctionEvent, steps: int = 1) -> Tables:
    """What is made of events like those of a CUDA device; microseconds."""
    tree = EventList(events, use_device="cuda")
    tree._build_tree()
    return tables(tree, steps)


def test_kernels_have_the_operator_that_launched_them_and_its_module() -> None:
    gemm, copy = on_device("gemm<float, 4>", 30, 50), on_device("Memcpy HtoD", 45, 70)
    backward, ours = on_device("wgrad", 80, 90), on_device(MODULE_PREFIX + "head.0", 30, 50, is_user_annotation=True)
    unknown = on_device("triton_poi", 90, 95)
    read = cuda_tables(
        on_host("ProfilerStep*", 0, 100, scope=7, is_user_annotation=True),
        on_device("ProfilerStep*", 30, 95, is_user_annotation=True),
        on_host("aten::copy_", 1, 5, copy, device_memory_usage=4096),
        on_host(MODULE_PREFIX + "head.0", 10, 20, ours, scope=7, is_user_annotation=True),
        on_host("aten::addmm", 11, 19, gemm, sequence_nr=5, device_memory_usage=512),
        on_host("cudaLaunchKernel", 12, 13),
        FunctionEvent(1, "AddmmBackward0", 2, 25, 29, scope=1, sequence_nr=5, fwd_thread=1, use_device="cuda"),
        *(ours, gemm, copy, unknown, backward),
    )
    assert sorted(read.kernels, key=lambda row: row.name) == [
        Kernel("Memcpy HtoD", "aten::copy_", "", 1.0, pytest.approx(25e-6)),
        Kernel("gemm<float, 4>", "aten::addmm", "head.0", 1.0, pytest.approx(20e-6)),
        Kernel("triton_poi", "", "", 1.0, pytest.approx(5e-6)),
        Kernel("wgrad", "", "", 1.0, pytest.approx(10e-6)),
    ]
    # Busy from 30 to 70 and from 80 to 95.
    assert read.device_idle == pytest.approx(0.45)
    assert read.step_s == pytest.approx(100e-6)
    rows = {row.name: row for row in read.operators}
    assert set(rows) == {"aten::copy_", "aten::addmm", "cudaLaunchKernel", "AddmmBackward0"}
    assert rows["aten::addmm"].self_device_s == pytest.approx(20e-6)
    assert rows["aten::addmm"].self_cpu_s == pytest.approx(7e-6)
    assert (rows["aten::copy_"].bytes, rows["aten::copy_"].phase) == (4096, "other")
    assert (rows["AddmmBackward0"].module, rows["AddmmBackward0"].phase) == ("head.0", "backward")
    assert rows["cudaLaunchKernel"].module == "head.0"


def test_without_events_on_the_device_its_kernels_and_idle_time_are_unknown() -> None:
    # So it is where CUPTI cannot be used: times between two marks, under the operator's own name.
    timed = on_host("aten::mm", 1, 5, is_legacy=True)
    timed.append_kernel("aten::mm", 0, 3.0)
    read = cuda_tables(on_host("ProfilerStep*", 0, 10, scope=7, is_user_annotation=True), timed)
    assert (read.kernels, read.device_idle) == ([], None)
    assert read.operators[0].self_device_s == pytest.approx(3e-6)


def test_the_trace_is_one_that_viewers_open(profiled: Profile) -> None:
    assert profiled.trace is not None
    trace = Path(profiled.trace)
    assert [path.name for path in trace.parent.iterdir()] == [trace.name]
    assert trace.match("resnet18-full-cpu.*.pt.trace.json.gz")
    assert profiled.trace_bytes == trace.stat().st_size
    text = gzip.decompress(trace.read_bytes()).decode()
    assert '"rank": 0' in text, "what HolisticTraceAnalysis searches for, space included"
    read = json.loads(text)
    assert read["traceName"] == trace.name
    events = read["traceEvents"]
    assert sum(event.get("name") == MODULE_PREFIX + "2.1" for event in events) == 2, "two recorded steps of three"
    assert sum(str(event.get("name")).startswith("ProfilerStep") and event["ph"] == "X" for event in events) == 2


def test_tensorboards_profiler_opens_the_trace(profiled: Profile, tmp_path: Path) -> None:
    pytest.importorskip("torch_tb_profiler")
    from torch_tb_profiler.io import Cache
    from torch_tb_profiler.profiler import RunLoader

    assert profiled.trace is not None
    run: Any = RunLoader("run", str(Path(profiled.trace).parent), Cache(str(tmp_path))).load()
    assert run.workers == ["resnet18-full-cpu"]
    (opened,) = run.profiles.values()
    assert {"Overview", "Operator", "Memory"} <= {view.display_name for view in opened.views}
    calls = {row["name"]: row["calls"] for row in opened.operation_table_by_name["data"]}
    assert calls["AddmmBackward0"] == 6


@pytest.mark.parametrize(
    ("content", "warning"),
    [(b" " * 101, "no trace: it has"), (b'{"traceEvents": [', "no trace: torch wrote no valid JSON")],
)
def test_an_unfit_trace_is_not_kept(
    content: bytes, warning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "_exported", lambda profiler: content)
    monkeypatch.setattr(capture, "_MOST_BYTES", 100)
    work = Workload()
    profile = profile_steps(work.step, work.device, tmp_path, "x", modules={"": work.network})
    assert (profile.trace, profile.trace_bytes, list(tmp_path.iterdir())) == (None, None, [])
    assert warning in profile.warnings[-1]
    assert profile.operators


@pytest.mark.parametrize("profiler", [torch.profiler.profile, torch.autograd.profiler.profile])
def test_a_profiler_that_records_is_seen_from_every_thread(profiler: Callable[[], AbstractContextManager[Any]]) -> None:
    assert not profiler_is_on()
    with profiler(), ThreadPoolExecutor() as threads:
        assert profiler_is_on()
        assert threads.submit(profiler_is_on).result()
    assert not profiler_is_on()
