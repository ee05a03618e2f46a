"""The log of a run, as a file beside its metrics."""

import logging
from typing import IO

from slim.files import open_to_append, writing

_ESCAPE = "backslashreplace"  # Names of files need not be UTF-8.


class LogFile(logging.Handler):
  """Keeps the log of slim until it is known where it belongs.

  A run logs before it may write to its folder: it could be refused.
  """

  def __init__(self) -> None:
    """Starts to keep lines."""
    super().__init__(logging.INFO)
    self.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    self._lines: list[str] = []
    self._file: IO[bytes] | None = None

  def open(self, path: str) -> None:
    """Appends what has been kept to a file, and writes there from now on.

    Args:
      path: The file; a link in its place is not followed.

    Raises:
      ValueError: If it cannot be written.
    """
    self._file = open_to_append(path)
    with writing(path):
      self._file.write("".join(self._lines).encode(errors=_ESCAPE))
      self._file.flush()

  def emit(self, record: logging.LogRecord) -> None:
    """Writes a line; a full disk is reported by what matters more."""
    line = self.format(record) + "\n"
    if self._file is None:
      self._lines.append(line)
      return
    try:
      self._file.write(line.encode(errors=_ESCAPE))
      self._file.flush()
    except OSError:
      self.handleError(record)

  def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
    """Says nothing: the log is on the terminal, too."""

  def __enter__(self) -> "LogFile":
    """Adds itself to the log of slim."""
    logging.getLogger("slim").addHandler(self)
    return self

  def __exit__(self, *_: object) -> None:
    """Removes itself, and closes the file."""
    logging.getLogger("slim").removeHandler(self)
    if self._file is not None:
      try:
        self._file.close()
      except OSError:
        pass  # As in `emit`.
