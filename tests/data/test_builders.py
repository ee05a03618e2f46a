"""Published texts with tfds: prepared, put there by hand, or downloaded."""

import functools
import http.server
import os
import pathlib
import runpy
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

from slim.data import builders, create_dataset
from slim.data.corpora import CORPORA
from slim.data.dataset import SPLITS
from slim.data.reading import read_files

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = str(ROOT / "scripts" / "download_data.py")
SETTINGS = dict(
  split="validation",
  sequence_length=8,
  batch_size=2,
  seed=0,
  vocab_size=256,
  order="consecutive",
)


class Handler(http.server.SimpleHTTPRequestHandler):
  """Serves files; the one called `input.txt` breaks off in the middle."""

  def do_GET(self):
    """Answers."""
    if not self.path.endswith("/input.txt"):
      return super().do_GET()
    self.send_response(200)
    self.send_header("Content-Length", "1000")
    self.end_headers()
    self.wfile.write(bytes(10))

  def log_message(self, *args):
    """Logs nothing."""


@pytest.fixture
def data_dir(contents, tmp_path, monkeypatch):
  """The data directory of tfds, empty."""
  folder = tmp_path / "data"
  monkeypatch.setattr(builders.tfds.core.constants, "DATA_DIR", str(folder))
  return folder


@pytest.fixture
def published(contents, make_zip, tmp_path, monkeypatch):
  """A folder with all files of all corpora, and a server at their addresses."""
  folder = tmp_path / "published"
  folder.mkdir()
  for files in contents.values():
    for name, data in files.items():
      (folder / name).write_bytes(data)
  (folder / "enwik8.zip").write_bytes(
    make_zip("enwik8", contents["enwik8"]["enwik8"])
  )
  server = http.server.ThreadingHTTPServer(
    ("127.0.0.1", 0), functools.partial(Handler, directory=folder)
  )
  thread = threading.Thread(target=server.serve_forever, args=(0.02,))
  thread.start()
  for name in CORPORA:
    move(monkeypatch, name, server.server_port)
  yield folder
  server.shutdown()
  server.server_close()
  thread.join()


def move(monkeypatch, name, port):
  """Replaces the addresses of a corpus by those of a server."""
  files = tuple(
    file._replace(url=f"http://127.0.0.1:{port}/{file.names[-1]}")
    for file in CORPORA[name].files
  )
  monkeypatch.setitem(CORPORA, name, CORPORA[name]._replace(files=files))


def assert_loads(name, folder):
  """Asserts that the splits from tfds are those of the files in a folder."""
  paths = [folder / file.name for file in CORPORA[name].files]
  for split, expected in read_files(CORPORA[name], paths).items():
    text = builders.load_split(name, split)
    assert text.data.tobytes() == expected.data.tobytes()
    assert text._replace(data=None) == expected._replace(data=None)


def assert_one_line(error, *words):
  """Asserts that an error is one line about the path, with these words."""
  message = str(error.value)
  assert message.startswith("path: ")
  assert all(word in message for word in words), message
  assert "\n" not in message


@pytest.mark.parametrize("name", ["ptb", "enwik8"])
def test_a_corpus_is_downloaded_once(
  name, published, data_dir, monkeypatch, capfd
):
  """Fails if data does not arrive, or every run downloads it."""
  assert_loads(name, published)
  move(monkeypatch, name, 9)  # No server answers there.
  assert_loads(name, published)
  assert (data_dir / "slim_corpora" / name / "1.0.0").is_dir()
  assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["ptb", "enwik8", "tiny_shakespeare"])
def test_files_put_there_are_taken(name, contents, data_dir):
  """Fails if a machine without a network cannot train."""
  folder = data_dir / "downloads" / "manual" / name
  folder.mkdir(parents=True)
  for file_name, data in contents[name].items():
    (folder / file_name).write_bytes(data)
  assert_loads(name, folder)


def test_where_a_corpus_comes_from_changes_nothing(published, data_dir):
  """Fails if a run cannot continue with the file elsewhere."""
  here, there = (
    create_dataset("enwik8", path=path, **SETTINGS)
    for path in (published / "enwik8.zip", None)
  )
  assert "enwik8, validation: 50000 of 1000000 bytes, " in here.description
  assert here.fingerprint == there.fingerprint


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


def spoil(folder, kind):
  """Damages the prepared validation split of PTB."""
  [path] = folder.glob("*-validation.*")
  if kind == "cut off":
    path.write_bytes(path.read_bytes()[:-1000])
  if kind == "other bytes":
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
  if kind == "of another split":
    [other] = folder.glob("*-test.*")
    path.write_bytes(other.read_bytes())
  if kind == "missing":
    path.unlink()
  if kind == "without its list of files":
    (folder / "dataset_info.json").unlink()


@pytest.mark.parametrize(
  "kind",
  [
    "cut off",
    "other bytes",
    "of another split",
    "missing",
    "without its list of files",
  ],
)
def test_what_was_prepared_and_is_damaged_gets_one_line(
  kind, published, data_dir
):
  """Fails if damaged data ends in a traceback, or is trained on."""
  folder = builders.prepare("ptb").data_dir
  spoil(pathlib.Path(folder), kind)
  with pytest.raises(ValueError) as error:
    builders.load_split("ptb", "validation")
  assert_one_line(error, f"in {folder} is damaged: remove this folder")
  shutil.rmtree(folder)
  assert_loads("ptb", published)


def test_of_two_runs_that_prepare_one_corpus_both_go_on(
  published, data_dir, monkeypatch
):
  """Fails if the slower of two runs is told to download by hand."""
  original = builders.read_files

  def read_slowly(*args):
    monkeypatch.setattr(builders, "read_files", original)
    builders.prepare("ptb")  # As another process does in the meantime.
    return original(*args)

  monkeypatch.setattr(builders, "read_files", read_slowly)
  assert_loads("ptb", published)


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
    "cannot be reached",
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
  assert message.startswith("error: path: 'ptb' is not prepared in"), result
  assert message.count("\n") == 1
  assert builders._PATIENCE <= float(seconds) < 5


def test_the_script_says_where_the_data_is(published, data_dir, capsys):
  """Fails if data cannot be prepared before going offline."""
  script = runpy.run_path(SCRIPT)
  script["download"](["enwik8", "ptb"])
  assert capsys.readouterr().out == (
    f"enwik8: {data_dir}/slim_corpora/enwik8/1.0.0\n"
    f"ptb: {data_dir}/slim_corpora/ptb/1.0.0\n"
  )
  with pytest.raises(ValueError, match="^there is no 'text8': name some of p"):
    script["download"](["ptb", "text8"])
  with pytest.raises(ValueError, match="^there is no '--all': name some of "):
    script["download"](["--all"])
  assert set(SPLITS) == set(builders.prepare("ptb").info.splits)
