"""Downloads that fail end in one line that says what to do."""

import os
import socket
import subprocess
import sys
import time

import pytest

from slim.data import builders, create_dataset
from tests.data.builders.cases import (
  ROOT,
  SCRIPT,
  SETTINGS,
  assert_loads,
  assert_one_line,
  move,
)


def damage(folder, kind):
  """Damages or removes the published enwik8."""
  path = folder / "enwik8.zip"
  if kind == "other bytes":
    path.write_bytes(bytes(1_000_000))
  if kind == "cut off":
    path.write_bytes(path.read_bytes()[:1000])
  if kind == "missing":
    path.unlink()


@pytest.mark.parametrize(
  ("kind", "words"),
  [
    (
      "other bytes",
      ["is not enwik8", "have 1,000,000 bytes", "get it again"],
    ),
    ("cut off", ["cannot read enwik8 from the zip", "get it again"]),
    ("missing", ["HTTP code: 404", "put enwik8 or enwik8.zip into"]),
  ],
)
def test_a_bad_download_gets_one_line(
  kind, words, published, data_dir, capfd, make_zip, contents
):
  """Fails if wrong data is kept and trained on."""
  damage(published, kind)
  with pytest.raises(ValueError) as error:
    builders.prepare("enwik8")
  assert_one_line(error, *words)
  assert capfd.readouterr() == ("", "")
  # The next try does not find the bad download in a cache.
  data = contents["enwik8"]["enwik8"]
  (published / "enwik8.zip").write_bytes(make_zip("enwik8", data))
  assert_loads("enwik8", published)


def test_a_download_that_breaks_off_gets_one_line(published, data_dir):
  """Fails if the user sees a traceback of a library."""
  with pytest.raises(ValueError) as error:
    builders.prepare("tiny_shakespeare")
  words = ["cannot prepare 'tiny_shakespeare'", "10 bytes read", "put input.tx"]
  assert_one_line(error, *words, str(data_dir / "downloads" / "manual"))


@pytest.mark.parametrize("silent", [False, True])
def test_without_a_network_it_fails_fast(
  silent, contents, data_dir, monkeypatch
):
  """Fails if tfds tries for minutes without a message."""
  monkeypatch.setattr(builders, "_PATIENCE", 0.3)
  with socket.create_server(("127.0.0.1", 0)) as server:  # It never answers.
    if silent:
      move(monkeypatch, "ptb", server.getsockname()[1])
    start = time.monotonic()
    with pytest.raises(ValueError) as error:
      create_dataset("ptb", path=None, **SETTINGS)
  assert time.monotonic() - start < 5
  assert_one_line(
    error,
    "'ptb' is not prepared",
    "does not answer",
    "put ptb.train.txt, ptb.valid.txt, ptb.test.txt into",
    str(data_dir / "downloads" / "manual" / "ptb"),
  )


COMMAND = """
import runpy, sys, time
from slim.data import builders, corpora

name, port, script = sys.argv[1:]
corpus = corpora.CORPORA[name]
url = f"http://127.0.0.1:{port}/text"
files = tuple(file._replace(url=url) for file in corpus.files)
corpora.CORPORA[name] = corpus._replace(files=files)
sys.argv = [script, name]
start = time.monotonic()
try:
  runpy.run_path(script, run_name="__main__")
except SystemExit as error:
  print(time.monotonic() - start, error.code)
"""


@pytest.mark.slow
def test_the_command_ends_within_five_seconds(tmp_path):
  """Fails if a user behind a silent firewall waits for minutes."""
  with socket.create_server(("127.0.0.1", 0)) as server:  # It never answers.
    arguments = ["ptb", str(server.getsockname()[1]), SCRIPT]
    result = subprocess.run(
      [sys.executable, "-c", COMMAND, *arguments],
      cwd=ROOT,
      env=os.environ | {"TFDS_DATA_DIR": str(tmp_path), "no_proxy": "*"},
      capture_output=True,
      text=True,
    )
  # Without the imports, whose time depends on the machine.
  seconds, _, message = result.stdout.partition(" ")
  assert message.startswith("error: 'ptb' is not prepared in"), result
  assert message.count("\n") == 1
  assert builders._PATIENCE <= float(seconds) < 5
