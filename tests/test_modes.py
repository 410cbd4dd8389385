import os
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch

from fashiontl.timing.torch_flags import deterministic, fastest


@pytest.fixture(autouse=True)
def switches_as_before() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    matmul, allowed, benchmark = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    ordered, fill = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.set_float32_matmul_precision(matmul)
    cudnn.allow_tf32, cudnn.benchmark = allowed, benchmark
    torch.use_deterministic_algorithms(ordered)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    if workspace is None:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.parametrize("mode", [deterministic, fastest])
def test_tf32_is_on_for_tf32_alone_and_every_switch_agrees(mode: Callable[[str], None]) -> None:
    for precision in ("fp32", "tf32", "bf16", "fp16", "tf32", "fp32"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mode(precision)
        expected = precision == "tf32"
        # torch raises where its older switches and `fp32_precision` contradict each other.
        assert torch.backends.cuda.matmul.allow_tf32 is expected
        assert torch.backends.cudnn.allow_tf32 is expected
        assert torch.get_float32_matmul_precision() == ("high" if expected else "highest")
        conv = getattr(torch.backends.cudnn, "conv", None)
        if conv is not None:
            assert (conv.fp32_precision == "tf32") is expected
            assert (torch.backends.cuda.matmul.fp32_precision == "tf32") is expected


def test_accuracy_runs_are_deterministic_and_timed_ones_let_cudnn_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    fastest()
    assert torch.backends.cudnn.benchmark
    deterministic()
    assert not torch.backends.cudnn.benchmark
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
