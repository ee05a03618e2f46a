"""Will it fit, and with which chunks?

    found = plan(step, params, state, xs, budget="2GiB")
    print(found)
    scan(step, params, state, xs, **found.choice.option.arguments)

`python -m slim.plan --config=… --budget=2GiB` does it for a config, and
`--config.gradient.memory_budget=2GiB` inside a run. All is compiled only.
"""

from slim.plan.options import Option
from slim.plan.plan_step import plan
from slim.plan.search import (
  Plan,
  Row,
)

__all__ = ["Option", "Plan", "Row", "plan"]
