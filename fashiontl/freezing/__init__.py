"""The freezing axis: which stages of a network train, at what rate, and in which mode its layers run.

This package can be imported without torch: `policies` is pure. `apply` puts a plan on a network, `adapters`
adds what a plan of low-rank adapters trains, `proof` checks that training kept it.
"""

from fashiontl.freezing.policies import POLICIES, Plan, Policy, StagePlan, absence

__all__ = ["POLICIES", "Plan", "Policy", "StagePlan", "absence"]
