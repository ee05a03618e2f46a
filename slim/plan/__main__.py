"""Find the fastest gradient that fits: `python -m slim.plan --config=…`.

Prints the candidates for `--budget=2GiB`, the fastest first, and the flags that
select the choice. With `--target=cuda:h100` they are compiled for that device,
whose memory is the budget. Nothing is run, and no data is read.
"""

from absl import flags

from slim import command_line
from slim.config import setting_flags
from slim.plan.budget import parse_budget
from slim.plan.from_config import override_flags, plan_config
from slim.targets.target_flags import define_target
from slim.training.devices import simulate_devices


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: Program name and arguments. Default: `sys.argv`.
  """
  config = setting_flags.define_config()
  budget = flags.DEFINE_string(
    "budget",
    None,
    "Memory of the device or, on CPUs, of the process, such as 2GiB; default: "
    "that of --target.",
  )
  target = define_target()

  def show() -> None:
    chosen = target()
    size = parse_budget("--budget", budget.value, chosen)
    found = plan_config(config.value, size, chosen)
    print(found)
    if found.choice is None:
      what = "--budget" if budget.value else f"the memory of {chosen.name}"
      raise ValueError(f"{what} {found.describe_failure()}")
    flags_to_add = override_flags(found.choice.gradient, config.value)
    print(*flags_to_add or ["no flags needed"])

  def choose_device() -> None:
    target()
    simulate_devices(config.value)

  command_line.run(show, argv, choose_device=choose_device)


if __name__ == "__main__":
  main()
