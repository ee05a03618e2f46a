"""Downloads and prepares the published texts, and prints where they are.

If compute nodes have no network, run this on a machine that has one, with
TFDS_DATA_DIR set to a folder that both can read.

  python scripts/download_data.py              # All corpora.
  python scripts/download_data.py ptb enwik8
"""

from slim import command_line
from slim.data.builders import prepare
from slim.data.corpora import CORPORA
from slim.settings import SettingError


def download(names: list[str]) -> None:
  """Prepares corpora.

  Args:
    names: Names in `CORPORA`; an empty list means all.

  Raises:
    ValueError: If a corpus does not exist or cannot be prepared.
  """
  for name in names:
    if name not in CORPORA:
      raise ValueError(
        f"there is no {name!r}: name some of {', '.join(CORPORA)}, or none for "
        "all"
      )
  for name in names or CORPORA:
    try:
      print(f"{name}: {prepare(name).data_dir}")
    except SettingError as error:  # There is no setting `path` here.
      raise ValueError(error.problem.removeprefix(": ")) from error


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: The program and its arguments; None: those of this process.
  """
  command_line.run_script(download, argv)


if __name__ == "__main__":
  main()
