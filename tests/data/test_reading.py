"""Published texts, read from files of the user."""

import bz2
import functools
import gzip
import itertools
import lzma
import tracemalloc
import zipfile

import numpy as np
import pytest

from slim.data import create_dataset
from slim.data.corpora import CORPORA
from slim.data.dataset import SPLITS
from slim.data.reading import find_files, read_corpus
from slim.data.text import cut_text

SETTINGS = dict(
  split="train",
  sequence_length=8,
  batch_size=2,
  seed=0,
  vocab_size=256,
  order="random",
)


def read(name, path):
  """Reads the bytes of all splits."""
  corpus = CORPORA[name]
  splits = [read_corpus(corpus, path, split) for split in SPLITS]
  assert [text.split for text in splits] == list(SPLITS)
  assert {text.name for text in splits} == {name}
  assert {text.size for text in splits} == {corpus.size}
  return [text.data.tobytes() for text in splits]


def cut(data):
  """Cuts bytes into 90, 5 and 5 percent."""
  data = np.frombuffer(data, np.uint8)
  return [cut_text("", data, split).data.tobytes() for split in SPLITS]


def assert_one_line(error, *words):
  """Asserts that an error is one line about the path, with these words."""
  message = str(error.value)
  assert message.startswith("path: ")
  assert all(word in message for word in words), message
  assert "\n" not in message


@pytest.mark.parametrize("name", ["enwik8", "tiny_shakespeare"])
@pytest.mark.parametrize("form", ["file", "zip", "folder", "folder with zip"])
def test_a_file_is_cut(name, form, contents, make_zip, tmp_path):
  """Fails if a file at hand must be downloaded again."""
  [(file_name, data)] = contents[name].items()
  path = tmp_path / file_name
  if "zip" in form:
    if "folder" in form:
      path = tmp_path / CORPORA[name].files[0].names[-1]
    path.write_bytes(make_zip(file_name, data))
  else:
    path.write_bytes(data)
  assert read(name, tmp_path if "folder" in form else path) == cut(data)


def test_a_folder_has_a_file_for_each_split(contents, tmp_path):
  """Fails if validation is scored on bytes of the training file."""
  for name, data in contents["ptb"].items():
    (tmp_path / name).write_bytes(data)
  assert read("ptb", tmp_path) == list(contents["ptb"].values())


def test_a_corpus_gives_the_batches_of_its_file(contents, tmp_path):
  """Fails if a corpus does not train as the same file does."""
  path = tmp_path / "any name"
  path.write_bytes(contents["tiny_shakespeare"]["input.txt"])
  corpus, text = (
    create_dataset(name, path=path, **SETTINGS)
    for name in ("tiny_shakespeare", "text")
  )
  np.testing.assert_array_equal(corpus.batch(3), text.batch(3))
  expected = text.description.replace("text", "tiny_shakespeare")
  assert corpus.description == expected
  assert corpus.description.startswith("tiny_shakespeare, train: 900 of 1000 ")


@pytest.mark.parametrize("name", CORPORA)
def test_another_text_is_taken_and_called_so(name, contents, tmp_path):
  """Fails if part of a corpus is refused, or taken for the whole."""
  data = contents["enwik8"]["enwik8"][:1_999]
  path = tmp_path / "enwik8"
  path.write_bytes(data)
  splits = [read_corpus(CORPORA[name], path, split) for split in SPLITS]
  assert [text.data.tobytes() for text in splits] == cut(data)
  expected = f"a file of 1,999 bytes instead of {name}"
  assert {text.name for text in splits} == {expected}
  dataset = create_dataset(name, path=path, **SETTINGS)
  assert dataset.description.startswith(f"{expected}, train: 1799 of 1999 ")


@pytest.mark.parametrize(
  "form", ["ptb.train.txt", "ptb.test.txt", "zip of one", "zip of several"]
)
def test_one_file_of_several_is_refused(form, contents, tmp_path):
  """Fails if PTB is cut in another way than published results."""
  path = tmp_path / "any name"
  files = contents["ptb"]
  if "zip" in form:
    with zipfile.ZipFile(path, "w") as archive:
      for name, data in list(files.items())[: 1 if "one" in form else 2]:
        # Of another size, so that the other name is decisive.
        archive.writestr(name, data if "one" in form else data[1:])
  else:
    path.write_bytes(files[form])
  with pytest.raises(ValueError) as error:
    read("ptb", path)
  words = ["any name' is one of the files of 'ptb'", "pass the folder that"]
  assert_one_line(error, *words, "all of ptb.train.txt, ptb.valid.txt, ptb.t")


def test_other_bytes_of_the_right_size_are_refused(contents, tmp_path):
  """Fails if a damaged file is trained on as if it were the corpus."""
  path = tmp_path / "enwik8"
  data = bytearray(contents["enwik8"]["enwik8"])
  data[-1] ^= 1
  path.write_bytes(data)
  with pytest.raises(ValueError) as error:
    read("enwik8", path)
  [file] = CORPORA["enwik8"].files
  words = [str(path), "have 1,000,000 bytes", file.sha256, f"from {file.url}"]
  assert_one_line(error, *words)


def test_a_folder_with_another_file_is_refused(contents, tmp_path):
  """Fails if a truncated split goes unnoticed."""
  for name, data in contents["ptb"].items():
    (tmp_path / name).write_bytes(data)
  (tmp_path / "ptb.test.txt").write_bytes(b"too short")
  with pytest.raises(ValueError) as error:
    read("ptb", tmp_path)
  assert_one_line(error, "ptb.test.txt", "have 500 bytes", "has 9 with")


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("ptb", "needs ptb.train.txt, ptb.valid.txt, ptb.test.txt;"),
    ("enwik8", "needs enwik8 or enwik8.zip;"),
  ],
)
def test_a_folder_without_a_file_is_refused(name, words, contents, tmp_path):
  """Fails if the user must guess the names of the files."""
  for file_name, data in list(contents["ptb"].items())[:2]:
    (tmp_path / file_name).write_bytes(data)
  assert find_files(CORPORA[name], tmp_path) == []
  with pytest.raises(ValueError) as error:
    read(name, tmp_path)
  assert_one_line(error, str(tmp_path), words)


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


def test_a_missing_file_gets_one_line(contents, tmp_path):
  """Fails if the user sees a traceback of NumPy."""
  with pytest.raises(ValueError) as error:
    read("enwik8", tmp_path / "none")
  assert_one_line(error, str(tmp_path / "none"), "No such file")
