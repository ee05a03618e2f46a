"""Published texts by way of tfds: prepared, put there, or downloaded."""

import functools
import http.server
import importlib.util
import pathlib
import socket
import threading
import time

import pytest

from slim.data import builders, create_dataset
from slim.data.corpora import CORPORA, read_files
from slim.data.dataset import SPLITS

ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = dict(
  split="validation",
  sequence_length=8,
  batch_size=2,
  seed=0,
  vocab_size=256,
  order="consecutive",
)


class Handler(http.server.SimpleHTTPRequestHandler):
  """Serves files, and breaks off in the midst of one called `input.txt`."""

  def do_GET(self):
    """Answers."""
    if not self.path.endswith("/input.txt"):
      return super().do_GET()
    self.send_response(200)
    self.send_header("Content-Length", "1000")
    self.end_headers()
    self.wfile.write(bytes(10))

  def log_message(self, *args):
    """Keeps quiet."""


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
  """Lets the addresses of a corpus be those of a server."""
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
  """Without it data would not arrive, or be downloaded by every run."""
  assert_loads(name, published)
  move(monkeypatch, name, 9)  # Where nobody answers.
  assert_loads(name, published)
  assert (data_dir / "slim_corpora" / name / "1.0.0").is_dir()
  assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["ptb", "enwik8", "tiny_shakespeare"])
def test_files_put_there_are_taken(name, contents, data_dir):
  """Without it a machine without network could not train."""
  folder = data_dir / "downloads" / "manual" / name
  folder.mkdir(parents=True)
  for file_name, data in contents[name].items():
    (folder / file_name).write_bytes(data)
  assert_loads(name, folder)


def test_where_a_corpus_comes_from_changes_nothing(published, data_dir):
  """Without it a run could not go on where the file is elsewhere."""
  here, there = (
    create_dataset("enwik8", path=path, **SETTINGS)
    for path in (published / "enwik8.zip", None)
  )
  assert "enwik8, validation: 50000 of 1000000 bytes, " in here.description
  assert here.fingerprint == there.fingerprint


def damage(folder, kind):
  """Damages what is published as enwik8, or takes it away."""
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
  """Without it wrong data would be trained on, for ever."""
  damage(published, kind)
  with pytest.raises(ValueError) as error:
    builders.prepare("enwik8")
  assert_one_line(error, *words)
  assert capfd.readouterr() == ("", "")
  # The next try does not find what went wrong in a cache.
  data = contents["enwik8"]["enwik8"]
  (published / "enwik8.zip").write_bytes(make_zip("enwik8", data))
  assert_loads("enwik8", published)


def test_a_download_that_breaks_off_gets_one_line(published, data_dir):
  """Without it the user would see a traceback of a library's."""
  with pytest.raises(ValueError) as error:
    builders.prepare("tiny_shakespeare")
  words = ["cannot prepare 'tiny_shakespeare'", "10 bytes read", "put input.tx"]
  assert_one_line(error, *words, str(data_dir / "downloads" / "manual"))


@pytest.mark.parametrize("silent", [False, True])
def test_without_a_network_it_fails_fast(
  silent, contents, data_dir, monkeypatch
):
  """Without it tfds would try for minutes, and say nothing."""
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


def test_patience_and_imports_take_less_than_five_seconds():
  """Without it a user without a network would wait."""
  assert builders._PATIENCE <= 3  # The rest is for importing tfds.


def test_the_script_says_where_the_data_is(published, data_dir, capsys):
  """Without it nobody could prepare data before going off the network."""
  path = ROOT / "scripts" / "download_data.py"
  spec = importlib.util.spec_from_file_location(path.stem, path)
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)
  script.download(["enwik8", "ptb"])
  assert capsys.readouterr().out == (
    f"enwik8: {data_dir}/slim_corpora/enwik8/1.0.0\n"
    f"ptb: {data_dir}/slim_corpora/ptb/1.0.0\n"
  )
  with pytest.raises(ValueError, match="name must be one of 'ptb', .*'text8'"):
    script.download(["ptb", "text8"])
  assert set(SPLITS) == set(builders.prepare("ptb").info.splits)
