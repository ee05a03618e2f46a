"""A server with all files of all corpora, and an empty data directory."""

import functools
import http.server
import threading

import pytest

from slim.data import builders
from slim.data.corpora import CORPORA
from tests.data.builders.cases import move


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
