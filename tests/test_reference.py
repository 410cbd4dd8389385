"""The reference mix by which one sees whether the machine is itself."""

import torch

from fashiontl.machine.devices import Cpu
from fashiontl.timing.reference import reference_calls


def test_the_mix_has_one_kind_for_each_thing_that_a_neighbour_can_take() -> None:
    calls = reference_calls(Cpu())
    assert list(calls) == ["arithmetic", "memory", "operators"]
    for _ in range(2):
        for call in calls.values():
            assert call() is None


def test_the_mix_leaves_the_random_numbers_of_the_process_alone() -> None:
    torch.manual_seed(5)
    first = torch.rand(3)
    torch.manual_seed(5)
    reference_calls(Cpu())
    assert torch.equal(torch.rand(3), first)
