"""Published texts, prepared by TensorFlow Datasets (tfds) without TensorFlow.

Only this file imports tfds, which takes seconds. It is imported when needed.
"""

import contextlib
import http.client
import io
import logging
import os
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from slim.data.corpora import CORPORA
from slim.data.reading import find_files, read_files
from slim.data.splits import TextSplit
from slim.files import first_line
from slim.settings import SettingError

_LOG = logging.getLogger("slim.data")

_RECORD_SIZE = 65_536  # Bytes.
# Seconds to wait for the first answer of a server. With the imports, a command
# without a network ends in less than 5 seconds.
_PATIENCE = 2.0


class SlimCorpora(tfds.core.GeneratorBasedBuilder):
  """Prepares one of `CORPORA`: its bytes in order, cut into records.

  Files are taken from the folder `downloads/manual/<name>` of tfds's data
  directory, or else downloaded. They are unpacked without tfds, which needs
  TensorFlow for that.
  """

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in CORPORA]

  def __init__(self, name: str):
    """Reads what has been prepared, if there is something.

    Args:
      name: One of `CORPORA`.

    Raises:
      SettingError: If it is damaged.
    """
    try:
      # Other file formats of tfds need TensorFlow.
      super().__init__(config=name, file_format="array_record")
    # protobuf raises its own errors, and tfds an AssertionError.
    except Exception as error:
      raise _damaged(name, self.data_dir) from error

  @property
  def manual_folder(self) -> os.PathLike[str]:
    """The folder for files that the user has downloaded."""
    name = self.builder_config.name
    return self.data_dir_root / "downloads" / "manual" / name

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {"bytes": tfds.features.Tensor(shape=(None,), dtype=np.uint8)}
      ),
      disable_shuffling=True,  # Shuffling would store them in hash order.
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    corpus = CORPORA[self.builder_config.name]
    paths = find_files(corpus, self.manual_folder)
    paths = paths or dl_manager.download([file.url for file in corpus.files])
    return {
      split: self._generate_examples(text.data)
      for split, text in read_files(corpus, paths).items()
    }

  def _generate_examples(self, data: np.ndarray) -> Iterator:
    for number, start in enumerate(range(0, data.size, _RECORD_SIZE)):
      yield number, {"bytes": data[start : start + _RECORD_SIZE]}


def prepare(name: str) -> SlimCorpora:
  """Prepares a corpus, unless that has been done before.

  Args:
    name: One of `CORPORA`.

  Returns:
    The builder, which knows the location of the data.

  Raises:
    SettingError: If the files are missing and cannot be downloaded, or are not
      the published ones. Without a network this takes `_PATIENCE` seconds.
  """
  corpus = CORPORA[name]
  builder = SlimCorpora(name)
  if builder.data_path.exists():
    return builder
  url = corpus.files[0].url
  advice = (
    f"put {corpus.listing} into {builder.manual_folder}, or train with the "
    "path of what you have"
  )
  if not find_files(corpus, builder.manual_folder) and not _answers(url):
    raise SettingError(
      "path",
      f": {name!r} is not prepared in {builder.data_dir_root}, and {url} "
      f"does not answer: {advice}",
    )
  _LOG.info("preparing %s in %s, once", name, builder.data_dir)
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  try:
    # A temporary folder, because tfds would reuse a bad download. Standard
    # output is for the results of a command, but tfds prints to it.
    with (
      tempfile.TemporaryDirectory() as folder,
      contextlib.redirect_stdout(io.StringIO()),
    ):
      builder.download_and_prepare(download_dir=folder)
  except (OSError, tfds.download.DownloadError) as error:
    if builder.data_path.exists():  # Another process has prepared it.
      return prepare(name)
    reason = first_line(error)
    raise SettingError(
      "path",
      f": cannot prepare {name!r} in {builder.data_dir}: {reason}: {advice}",
    ) from error
  return builder


def load_split(name: str, split: str) -> TextSplit:
  """Loads a split of a corpus from tfds, preparing it the first time.

  Args:
    name: One of `CORPORA`.
    split: One of `SPLITS`.

  Returns:
    The split.

  Raises:
    SettingError: If it cannot be prepared, or has been damaged since.
  """
  corpus, builder = CORPORA[name], prepare(name)
  damaged = _damaged(name, builder.data_dir)
  try:
    records = builder.as_data_source(split)
    data = np.concatenate([record["bytes"] for record in records])
  # Unreadable records raise a RuntimeError, missing splits a KeyError.
  except (RuntimeError, KeyError, OSError) as error:
    raise damaged from error
  if data.size != corpus.split_size(split):
    raise damaged
  return TextSplit(name, split, data, corpus.size)


def _damaged(name: str, folder: str) -> SettingError:
  """The error for a prepared corpus that cannot be read."""
  return SettingError(
    "path",
    f": the prepared {name!r} in {folder} is damaged: remove this folder, and "
    "it is prepared again",
  )


def _answers(url: str) -> bool:
  """Tells whether a server answers; tfds itself would try for minutes."""
  answers = []

  def ask():
    request = urllib.request.Request(url, method="HEAD")
    try:
      urllib.request.urlopen(request, timeout=_PATIENCE).close()
    except urllib.error.HTTPError:
      pass  # An HTTP error is an answer; tfds reports it.
    except (OSError, http.client.HTTPException):
      return
    answers.append(True)

  # In a thread, because a DNS lookup has no timeout.
  thread = threading.Thread(target=ask, daemon=True)
  thread.start()
  thread.join(_PATIENCE)
  return bool(answers)
