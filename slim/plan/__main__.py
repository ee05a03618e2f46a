"""What fits: `python -m slim.plan --config=… --budget=2GiB`.

Prints what was tried, the fastest first, until the memory suffices, and what to
add to the command line. Nothing is run, and no data is read.
"""

from absl import flags

from slim import command_line
from slim.config import setting_flags
from slim.config.byte_sizes import parse_size
from slim.plan.from_config import (
  overrides,
  plan_config,
)


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: The program and its arguments; None: those of this process.
  """
  config = setting_flags.define_config()
  budget = flags.DEFINE_string(
    "budget",
    None,
    "Of the device, or on CPUs of the process, such as 2GiB.",
    required=True,
  )

  def show():
    found = plan_config(config.value, parse_size("--budget", budget.value))
    print(found)
    if found.choice is None:
      raise ValueError(f"--budget {found.describe_failure()}")
    print(*overrides(found.choice.option, config.value) or ["as it is"])

  command_line.run(show, argv)


if __name__ == "__main__":
  main()
