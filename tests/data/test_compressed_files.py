"""Published texts in zip files, and other compressed files."""

import bz2
import functools
import gzip
import itertools
import lzma
import tracemalloc
import zipfile

import pytest

from slim.data import create_dataset
from slim.data.corpora import CORPORA
from slim.data.reading import read_corpus
from tests.data.files import SETTINGS, assert_one_line, read


@pytest.mark.parametrize("kind", ["cut off", "damaged", "another", "encrypted"])
def test_a_bad_zip_gets_one_line(kind, contents, make_zip, tmp_path):
  """Fails if a zip is trained on as a text, or ends in a traceback."""
  data = contents["enwik8"]["enwik8"]
  zipped = bytearray(
    make_zip("enwik9" if kind == "another" else "enwik8", data)
  )
  if kind == "cut off":
    zipped = zipped[: len(zipped) // 2]
  if kind == "damaged":
    zipped[len(zipped) // 2] ^= 255
  if kind == "encrypted":
    zipped[zipped.rindex(b"PK\1\2") + 8] |= 1  # A flag in the list of files.
  path = tmp_path / "enwik8.zip"
  path.write_bytes(zipped)
  with pytest.raises(ValueError) as error:
    read("enwik8", path)
  assert_one_line(error, str(path), "damaged or another one", "get it again")


@pytest.mark.parametrize("declared", ["all", "less"])
def test_a_zip_is_unpacked_to_the_size_of_the_corpus(
  declared, contents, make_zip, tmp_path
):
  """Fails if a zip of 2 MB takes 6 GB of memory."""
  [file] = CORPORA["enwik8"].files
  zipped = bytearray(make_zip("enwik8", bytes(20 * file.size)))
  if declared == "less":  # In the list of files, at the end.
    at = zipped.rindex(b"PK\1\2") + 24
    zipped[at : at + 4] = file.size.to_bytes(4, "little")
  path = tmp_path / "enwik8.zip"
  path.write_bytes(zipped)
  tracemalloc.start()
  with pytest.raises(ValueError) as error:
    read("enwik8", path)
  assert tracemalloc.get_traced_memory()[1] < 5 * file.size
  tracemalloc.stop()
  reason = "20,000,000 bytes, not 1,000,000" if declared == "all" else "CRC"
  assert_one_line(error, str(path), "damaged or another one", reason)


def test_a_zip_of_another_method_is_refused(contents, tmp_path):
  """Fails if the blocks of a zip can be unpacked to any size."""
  path = tmp_path / "enwik8.zip"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
    archive.writestr("enwik8", contents["enwik8"]["enwik8"])
  with pytest.raises(ValueError) as error:
    read("enwik8", path)
  assert_one_line(error, str(path), "compression method 12")


@pytest.mark.parametrize(
  ("name", "kind"),
  [
    *itertools.product(
      ["text", "in a zip"], ["bz2", "gzip", "lzma", "zip", "zstd"]
    ),
    ("enwik8", "gzip"),
  ],
)
def test_a_compressed_text_is_refused(name, kind, make_zip, tmp_path):
  """Fails if a model trains on the noise of compressed bytes."""
  data = b"some text\n" * 100
  data = {
    "bz2": bz2.compress,
    "gzip": gzip.compress,
    "lzma": lzma.compress,
    "zip": functools.partial(make_zip, "any"),
    "zstd": lambda data: b"\x28\xb5\x2f\xfd" + data,
  }[kind](data)
  if name == "in a zip":
    name, data = "enwik8", make_zip("enwik8", data)
  path = tmp_path / "any name"
  path.write_bytes(data)
  with pytest.raises(ValueError) as error:
    create_dataset(name, path=path, **SETTINGS)
  kind = {"bz2": "bzip2", "lzma": "xz"}.get(kind, kind)
  assert_one_line(error, str(path), f"compressed by {kind}: unpack it")


@pytest.mark.parametrize("error", [EOFError(), OSError(5, "I/O error")])
def test_any_error_in_a_zip_gets_one_line(
  error, contents, make_zip, tmp_path, monkeypatch
):
  """Fails if an error without a message causes another error."""

  def fail(*args):
    raise error

  path = tmp_path / "enwik8.zip"
  path.write_bytes(make_zip("enwik8", b"text"))
  monkeypatch.setattr(zipfile.ZipFile, "open", fail)
  with pytest.raises(ValueError) as raised:
    read("enwik8", path)
  reason = str(error) or "EOFError"
  assert_one_line(raised, f"damaged or another one: {reason}; get it again")


def test_a_zip_is_unpacked_once(contents, make_zip, tmp_path, monkeypatch):
  """Fails if every start unpacks and checks 100 MB several times."""
  path = tmp_path / "enwik8.zip"
  path.write_bytes(make_zip(*contents["enwik8"].popitem()))
  unpacked = []
  original = zipfile.ZipFile.open

  def count(archive, info):
    unpacked.append(info.filename)
    return original(archive, info)

  monkeypatch.setattr(zipfile.ZipFile, "open", count)
  read_corpus(CORPORA["enwik8"], path, "train")
  assert unpacked == ["enwik8"]
