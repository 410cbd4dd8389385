"""The freezing axis: which stages of a network train, at what learning rate, and in which mode its layers run.

This package can be imported without torch: `policies` is pure. `apply` puts a plan on a network, `lora` adds the
low-rank adapters that a plan trains, `proof` checks that training kept it.
"""

from fashiontl.freezing.policies import POLICIES, Plan, Policy, StagePlan, unavailable_reason

__all__ = ["POLICIES", "Plan", "Policy", "StagePlan", "unavailable_reason"]
