"""What fits: `python -m slim.plan --config=… --budget=2GiB`.

Prints what was tried, the fastest first, until the memory suffices, and what to
add to the command line. Nothing is run, and no data is read.
"""

from absl import flags
from ml_collections import config_flags

from slim import command_line
from slim.plan.models import overrides, plan_config
from slim.sizes import parse_size


def main() -> None:
  """Runs the command line."""
  config = config_flags.DEFINE_config_file("config", None, "File in configs/.")
  budget = flags.DEFINE_string(
    "budget", None, "Of the device, or on CPUs of the process, such as 2GiB."
  )
  flags.mark_flags_as_required(["config", "budget"])

  def show():
    found = plan_config(config.value, parse_size("--budget", budget.value))
    print(found)
    if found.choice is None:
      raise ValueError(f"--budget {found.describe_failure()}")
    print(*overrides(found.choice.option, config.value) or ["as it is"])

  command_line.run(show)


if __name__ == "__main__":
  main()
