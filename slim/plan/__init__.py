"""Find the fastest gradient that fits a memory budget; nothing is run.

    found = plan(step, params, state, xs, budget="2GiB")
    print(found)
    scan(step, params, state, xs, **found.choice.gradient.scan_arguments)

`python -m slim.plan --config=… --budget=2GiB` plans a config, and
`--config.gradient.memory_budget=2GiB` lets a run choose by itself.
"""

from slim.plan.gradient_choice import GradientChoice
from slim.plan.plan_step import plan
from slim.plan.results import Candidate, CompiledMemory, Plan

__all__ = ["Candidate", "CompiledMemory", "GradientChoice", "Plan", "plan"]
