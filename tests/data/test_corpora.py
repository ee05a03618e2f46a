"""The published texts."""

from slim.data.corpora import CORPORA


def test_published_sizes_and_checksums():
  """Fails if results are on another text than published ones."""
  table = {
    file.name: (file.size, file.sha256)
    for corpus in CORPORA.values()
    for file in corpus.files
  }
  assert table == {
    "ptb.train.txt": (
      5_101_618,
      "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    ),
    "ptb.valid.txt": (
      399_782,
      "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    ),
    "ptb.test.txt": (
      449_945,
      "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
    ),
    "enwik8": (
      100_000_000,
      "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
    ),
    "input.txt": (
      1_115_394,
      "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
  }
