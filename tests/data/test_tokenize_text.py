"""The script that turns a text into tokens."""

import numpy as np

from slim.data import create_vocabulary
from tests.commands import assert_refused, run_command
from tests.data.files import make_tokenizer
from tests.mistakes.cases import load_script


def test_a_text_becomes_the_tokens_of_its_tokenizer(tmp_path, monkeypatch):
  """Fails if lines are lost where the text is cut, or a file is replaced."""
  script = load_script("tokenize_text")
  monkeypatch.setattr(script, "_BLOCK", 20)
  path = make_tokenizer(tmp_path / "tokenizer.json")
  text = "the house\nof the mouse\n" * 5
  (tmp_path / "text").write_text(text)
  line = [
    f"--tokenizer={path}",
    f"--input={tmp_path}/text",
    f"--output={tmp_path}/tokens.npy",
  ]
  done = run_command(script.main, *line)
  assert (done.code, done.errors) == (0, "")
  tokens = np.load(tmp_path / "tokens.npy")
  vocabulary = create_vocabulary("tokens", vocab_size=300, tokenizer=path)
  assert vocabulary.start().decode(tokens) == text
  assert tokens.dtype == np.uint16
  assert_refused(run_command(script.main, *line), "--output must be a new file")
  line[2] += ".npy"
  monkeypatch.chdir(tmp_path)
  (tmp_path / "latin").write_bytes(b"a text of 24 bytes, is it\nca\xe9\n")
  for flag, message in (
    ("--input=none", "--input: cannot read none: No such file"),
    ("--tokenizer=none", "--tokenizer: cannot read 'none'"),
    ("--input=latin", "from byte 26, must be a text in UTF-8, its byte 2 is"),
  ):
    name = flag.partition("=")[0]
    changed = [x for x in line if not x.startswith(name)] + [flag]
    before = sorted(tmp_path.iterdir())
    assert_refused(run_command(script.main, *changed), message)
    assert sorted(tmp_path.iterdir()) == before  # Nothing half written.
