"""Published texts, read from files of the user."""

import zipfile

import chex
import numpy as np
import pytest

from slim.data import create_dataset
from slim.data.corpora import CORPORA
from slim.data.dataset import SPLITS
from slim.data.reading import find_files, read_corpus
from slim.data.splits import cut_text
from tests.data.files import SETTINGS, assert_one_line, read


def cut(data):
  """Cuts bytes into 90, 5 and 5 percent."""
  data = np.frombuffer(data, np.uint8)
  return [cut_text("", data, split).data.tobytes() for split in SPLITS]


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
  chex.assert_trees_all_equal(corpus.batch(3), text.batch(3))
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


def test_a_missing_file_gets_one_line(contents, tmp_path):
  """Fails if the user sees a traceback of NumPy."""
  with pytest.raises(ValueError) as error:
    read("enwik8", tmp_path / "none")
  assert_one_line(error, str(tmp_path / "none"), "No such file")
