"""The data of a run: it is still what the run was trained with."""

import ml_collections

from slim.data import SPLITS
from slim.settings import SettingError
from slim.training import build


def fingerprint_data(config: ml_collections.ConfigDict) -> dict[str, str]:
  """Returns the fingerprints of all splits of the data.

  Args:
    config: All settings.

  Returns:
    `Dataset.fingerprint` by split. A split that is too short for a sequence
    has "".

  Raises:
    SettingError: If the data cannot be read.
  """
  found = {}
  for name in SPLITS:
    try:
      dataset = build.create_split(config, name, config.train.batch_size)
      found[name] = dataset.fingerprint
    except SettingError as error:
      if error.setting != "config.data.sequence_length":
        raise
      found[name] = ""
  return found


def check_data(
  config: ml_collections.ConfigDict,
  workdir: str,
  before: dict[str, str],
  now: dict[str, str],
  advice: str,
) -> None:
  """Raises if a part of the data is not what a run has used.

  Args:
    config: All settings.
    workdir: The folder of the run.
    before: The fingerprints of the splits when it was trained.
    now: Those of the data as it is.
    advice: What the user can do, besides restoring the file.

  Raises:
    ValueError: It names the split.
  """
  data = config.data.path or config.data.name
  if config.data.document_lengths is not None:
    data += f" with config.data.document_lengths={config.data.document_lengths}"
  for split, fingerprint in before.items():
    if now[split] != fingerprint:
      raise ValueError(
        f"config.data.path: the {split} split of {data} is no longer what the "
        f"run in {workdir} used: restore the file, or {advice}"
      )
