"""The flags of `slim.train`, which a sweep passes on."""

from typing import NamedTuple

from absl import flags

from slim.config import setting_flags
from slim.runs.compilation_cache import define_cache

flags.disclaim_key_flags()  # `--help` lists them as the command's own.


class TrainFlags(NamedTuple):
  """The holders of the flags."""

  config: flags.FlagHolder
  workdir: flags.FlagHolder
  allow_change: flags.FlagHolder
  print_config: flags.FlagHolder
  processes: flags.FlagHolder
  compilation_cache: flags.FlagHolder


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> TrainFlags:
  """Defines the flags.

  Args:
    flag_values: The flags to which they are added.

  Returns:
    Their holders.
  """
  return TrainFlags(
    config=setting_flags.define_config(flag_values),
    workdir=flags.DEFINE_string(
      "workdir", None, "Folder of the run.", flag_values=flag_values
    ),
    allow_change=flags.DEFINE_list(
      "allow_change",
      [],
      "Settings that may change when a run is continued, as in "
      "optimizer.learning_rate,train.num_steps.",
      flag_values=flag_values,
    ),
    print_config=flags.DEFINE_bool(
      "print_config",
      False,
      "Print all settings and end.",
      flag_values=flag_values,
    ),
    processes=flags.DEFINE_string(
      "processes",
      None,
      "How this process finds those that it trains with: auto, under SLURM, "
      "Open MPI or on Cloud TPUs; or HOST:PORT,N,I: where process 0 listens, "
      "how many there are, and which this is. Default: it is alone.",
      flag_values=flag_values,
    ),
    compilation_cache=define_cache(flag_values),
  )
