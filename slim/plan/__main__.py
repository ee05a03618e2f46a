"""Find the fastest gradient that fits: `python -m slim.plan --config=…`.

Prints the candidates for `--budget=2GiB`, the fastest first, and the flags that
select the choice. Nothing is run, and no data is read.
"""

from absl import flags

from slim import command_line
from slim.config import setting_flags
from slim.config.byte_sizes import parse_size
from slim.plan.from_config import override_flags, plan_config


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: Program name and arguments. Default: `sys.argv`.
  """
  config = setting_flags.define_config()
  budget = flags.DEFINE_string(
    "budget",
    None,
    "Memory of the device or, on CPUs, of the process, such as 2GiB.",
    required=True,
  )

  def show() -> None:
    found = plan_config(config.value, parse_size("--budget", budget.value))
    print(found)
    if found.choice is None:
      raise ValueError(f"--budget {found.describe_failure()}")
    flags_to_add = override_flags(found.choice.gradient, config.value)
    print(*flags_to_add or ["no flags needed"])

  command_line.run(show, argv)


if __name__ == "__main__":
  main()
