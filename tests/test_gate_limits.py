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


@pytest.mark.parametrize("case_id", ["resnet18-full-cuda", "vgg11-scratch-cuda:1-fashion10-bf16"])
def test_on_cuda_memory_is_held_more_closely(case_id: str) -> None:
    limit = limit_of(case_id, "inference_peak_memory")
    assert limit is not None
    assert (limit.tolerated, limit.floor, limit.repeats) == (0.01, 2**20, 2)
    assert limit_of(case_id, "latency") == LIMITS["latency"]
    assert not on_cuda("cuda_like-full-cpu")
