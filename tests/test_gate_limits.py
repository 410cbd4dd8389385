import pytest

from fashiontl.core.metrics import METRICS
from fashiontl.gate.limits import LIMITS, TAIL, limit_of, on_cuda


def test_every_limit_is_of_a_known_metric_and_leaves_leeway() -> None:
    for name, limit in LIMITS.items():
        assert name == limit.metric
        assert name in METRICS
        assert (limit.kind == "exact") == (limit.detect == 0)
        assert limit.kind == "exact" or 0 < limit.tolerated < limit.detect
    assert TAIL.tolerated < TAIL.detect


@pytest.mark.parametrize(
    ("metric", "tolerated", "detect"),
    [
        ("latency", 0.02, 0.05),
        ("train_throughput", 0.02, 0.05),
        ("inference_throughput", 0.02, 0.05),
        ("training_peak_memory", 0.05, 0.10),
        ("parameters", 0.0, 0.0),
        ("training_flops", 0.0, 0.0),
        ("accuracy", 0.001, 0.005),
    ],
)
def test_limits_on_the_cpu(metric: str, tolerated: float, detect: float) -> None:
    limit = limit_of("resnet18-full-cpu-fashion10", metric)
    assert limit is not None
    assert (limit.tolerated, limit.detect) == (tolerated, detect)


@pytest.mark.parametrize("metric", ["equal", "wall_time", "idle_power"])
def test_what_the_gate_does_not_judge_has_no_limit(metric: str) -> None:
    assert limit_of("resnet18-full-cpu", metric) is None


@pytest.mark.parametrize("case_id", ["resnet18-full-cuda", "vgg11-scratch-cuda:1-fashion10-bf16"])
def test_on_cuda_memory_is_held_more_closely(case_id: str) -> None:
    limit = limit_of(case_id, "inference_peak_memory")
    assert limit is not None
    assert (limit.tolerated, limit.floor, limit.repeats) == (0.01, 2**20, 2)
    assert limit_of(case_id, "latency") == LIMITS["latency"]


@pytest.mark.parametrize("case_id", ["resnet18-full-cpu", "cuda_like-full-cpu", "resnet18-full-mps"])
def test_other_devices_are_not_cuda(case_id: str) -> None:
    assert not on_cuda(case_id)
