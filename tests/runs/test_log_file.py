"""The log of a run is kept beside its metrics."""

import logging

import pytest

from slim.runs.log_file import LogFile

LOG = logging.getLogger("slim.test")


@pytest.fixture(autouse=True)
def level(caplog):
  """Logs as a command does."""
  with caplog.at_level(logging.INFO, "slim"):
    yield


def test_what_was_logged_before_is_in_the_file(tmp_path):
  """Fails if the start of a run is lost, or that of another is overwritten."""
  path = tmp_path / "log.txt"
  for word in ("one", "two"):
    with LogFile() as log_file:
      LOG.info("%s before", word)
      log_file.open(str(path))
      LOG.info("%s after", word)
    LOG.info("closed")
  lines = path.read_text().splitlines()
  assert [line.split(" ", 2)[2] for line in lines] == [
    "one before",
    "one after",
    "two before",
    "two after",
  ]
  assert lines[0][:2] == "20"  # The date.


def test_a_link_is_not_followed(tmp_path):
  """Fails if another file is written to."""
  (tmp_path / "other").write_text("precious")
  (tmp_path / "log.txt").symlink_to(tmp_path / "other")
  with pytest.raises(ValueError, match="a link is in"), LogFile() as log_file:
    log_file.open(str(tmp_path / "log.txt"))
  assert (tmp_path / "other").read_text() == "precious"


def test_a_refused_run_leaves_no_file(tmp_path):
  """Fails if a mistake leaves a log behind."""
  with LogFile():
    LOG.info("refused")
  assert not list(tmp_path.iterdir())


def test_a_name_that_is_not_utf8_is_logged(tmp_path, monkeypatch):
  """Fails if a file with such a name ends a run at its last line."""
  monkeypatch.setattr(logging.getLogger("slim"), "propagate", False)
  with LogFile() as log_file:
    LOG.info("%s", b"caf\xe9".decode(errors="surrogateescape"))
    log_file.open(str(tmp_path / "log.txt"))
    LOG.info("%s", b"caf\xe9".decode(errors="surrogateescape"))
  lines = (tmp_path / "log.txt").read_text().splitlines()
  assert len(lines) == 2 and all(x.endswith(r"caf\udce9") for x in lines)
