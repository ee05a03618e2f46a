"""Settings and assertions for tests of prepared corpora."""

import pathlib

from slim.data import builders
from slim.data.corpora import CORPORA
from slim.data.reading import read_files

ROOT = pathlib.Path(__file__).parents[3]
SCRIPT = str(ROOT / "scripts" / "download_data.py")
SETTINGS = dict(
  split="validation",
  sequence_length=8,
  batch_size=2,
  seed=0,
  vocab_size=256,
  order="consecutive",
)


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
