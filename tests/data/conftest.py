"""Small corpora that replace the published ones."""

import hashlib
import io
import zipfile

import numpy as np
import pytest

from slim.data.corpora import CORPORA

# enwik8 has several records in tfds, of which the last is shorter.
SIZES = {"ptb": (3000, 700, 500), "enwik8": (1_000_000,)}


@pytest.fixture
def contents(monkeypatch):
  """Puts small corpora into `CORPORA`; no server answers at their addresses.

  Returns:
    For each corpus, the bytes of its files by name. The splits of PTB are in
    order.
  """
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  generator = np.random.default_rng(0)
  result = {}
  for name, corpus in CORPORA.items():
    files = []
    sizes = SIZES.get(name, (1000,))
    for file, size in zip(corpus.files, sizes, strict=True):
      data = generator.bytes(size)
      result.setdefault(name, {})[file.name] = data
      files.append(
        file._replace(
          size=size,
          sha256=hashlib.sha256(data).hexdigest(),
          url=f"http://127.0.0.1:9/{file.names[-1]}",  # Of "discard".
        )
      )
    monkeypatch.setitem(CORPORA, name, corpus._replace(files=tuple(files)))
  return result


@pytest.fixture
def make_zip():
  """Makes the bytes of a zip with one file inside."""

  def make(name, data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
      archive.writestr(name, data)
    return buffer.getvalue()

  return make
