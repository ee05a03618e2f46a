"""README and docs: every number is that of experiments/results/."""

import re

import pytest

_UNIT = r"(?:[KMG]iB|[MG]B|×|%|m?s\b|µs|seconds|minutes|hours|bits)"
# A number and, after a comment or none, a unit in which results are measured.
_MEASURED = re.compile(
  rf"(?<![\w.,^*])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(<!--.*?-->)?\s*{_UNIT}", re.S
)
_NOT_PROSE = re.compile(r"<!-- begin .*?<!-- end -->|```.*?```|`[^`]*`", re.S)


@pytest.fixture
def documents(beside):
  """Returns experiments/claims/documents.py."""
  from claims import documents

  return documents


@pytest.fixture
def statements(documents):
  """Returns experiments/claims/statements.py."""
  return documents.statements


RECORD = {
  "note": 3e-6,
  "rows": [
    {"tokens": 64, "MiB": 1379.8, "ratio": 1.25},
    {"tokens": 128, "MiB": 44.2, "ratio": 0.959},
  ],
}


def read(name):
  """Reads a record as `documents.read_result` does."""
  if name == "noisy":  # Python's max of these is 44.
    return {"rows": [{"MiB": 44.0}, {"MiB": float("nan")}]}
  if name != "memory":
    raise FileNotFoundError(f"there is no {name}.json")
  return RECORD


def test_documents_agree_with_results(documents):
  """Fails if README or docs say something else than experiments/results/."""
  assert not list(documents.check())


def test_every_measured_number_has_a_source(documents):
  """Fails if a number with a unit is tied to no result."""
  bare = []
  for path in documents.documents():
    text = _NOT_PROSE.sub("", path.read_text(encoding="utf-8"))
    for match in _MEASURED.finditer(text):
      comment = match[1] or ""
      if not comment.startswith(("<!--=", "<!-- reported")):
        context = " ".join(text[match.start() - 60 : match.end()].split())
        bare.append(f"{path.name}: {context}")
  assert not bare


def test_every_comment_is_read(documents):
  """Fails if a mistyped comment is a number or a condition that none checks."""
  known = re.compile(
    r"(?<=\d)<!--= |<!-- (holds|holds at full size): |"
    r"<!-- (begin .* -->|end -->|reported -->)"
  )
  for path in documents.documents():
    text = re.sub(
      r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.S | re.M
    )
    for match in re.finditer("<!--", text):
      context = text[match.start() - 20 : match.start() + 60]
      assert known.match(text, match.start()), f"{path.name}: {context}"


@pytest.mark.parametrize(
  ("written", "expression", "found"),
  [
    ("1,380", 'memory("MiB", tokens=64)', None),
    ("44", 'memory("MiB", tokens=128)', None),
    ("44.2", 'memory("MiB", tokens=128)', None),
    ("0.96", 'min(memory("ratio"))', None),
    ("1.35", 'memory("MiB", tokens=64) / 1024', None),
    ("3e-6", 'memory("note")', None),
    ("1,381", 'memory("MiB", tokens=64)', "1,380 was measured"),
    ("0.97", 'min(memory("ratio"))', "0.96 was measured"),
    ("44", 'memory("MiB", tokens=256)', "no row has MiB and"),
    ("44", 'memory("MiB", **{"tokens": 128})', None),
    ("44", 'memory("MiB")', "must be one number, found 2: use max"),
    ("44", 'other("MiB")', "there is no other.json"),
    ("44", 'max(noisy("MiB"))', "noisy: MiB is not finite in a row with {}"),
    ("44", "open", "not an expression over results: open"),
    ("44", "memory(", "was never closed"),
  ],
)
def test_a_number_is_the_measured_one(statements, written, expression, found):
  """Fails if a number changed by hand, in text or results, goes unnoticed."""
  text = f"\n\nIt needs {written}<!--= {expression} --> MiB.\nOf two.\n\nMore."
  failures = list(statements.check(text, read))
  if found is None:
    assert not failures
    return
  (failure,) = failures
  assert found in failure.reason
  assert failure.sentence == f"It needs {written} MiB. Of two."
  assert failure.line == 3


@pytest.mark.parametrize(
  ("condition", "reason"),
  [
    ('max(memory("ratio")) < 1.3', None),
    ('0.9 < memory("ratio", tokens=128) <= 1', None),
    (
      'max(memory("ratio")) < 1.2',
      "max(memory('ratio')) < 1.2 is false, found 1.25, 1.2",
    ),
    ('other("ratio") < 1', "there is no other.json"),
  ],
)
def test_a_condition_is_checked(statements, condition, reason):
  """Fails if a sentence about all sizes goes on when it no longer holds."""
  text = f"- One.\n- Fast.\n  <!-- holds: {condition} -->\n- Three."
  for quick in (False, True):
    failures = list(statements.check(text, read, quick))
    assert [x.reason for x in failures] == ([reason] if reason else [])
    assert [x.sentence for x in failures] == (["- Fast."] if reason else [])
  text = text.replace("holds:", "holds at full size:")
  assert not list(statements.check(text, read, quick=True))
  assert len(list(statements.check(text, read))) == bool(reason)


def test_numbers_and_blocks_are_written(statements):
  """Fails if `make reproduce-full` leaves old numbers in the text."""
  text = (
    'A 7<!--= memory("MiB", tokens=128) -->.\n<!-- begin f(2) -->\n<!-- end -->'
  )
  blocks = {"f": lambda read, count: f"{count} of {read('memory')['note']}"}
  (failure,) = statements.check_blocks(text, blocks, read)
  assert (failure.line, failure.sentence) == (2, "f(2)")
  (failure,) = statements.check_blocks(text, {}, read)
  assert "got 'f(2)'" in failure.reason
  found = statements.write(text, blocks, read)
  assert found.startswith("A 44<!--=")
  assert found.endswith("-->\n2 of 3e-06\n<!-- end -->")
  assert not list(statements.check_blocks(found, blocks, read))
  unknown = text.replace("memory", "other").replace("f(2)", "g()")
  assert statements.write(unknown, blocks, read) == unknown


def test_a_source_names_its_code(documents):
  """Fails if a table is published of code that nobody can find."""
  record = {"command": "python x.py --text=a", "date": "2026-11-30"}
  record |= {"hardware": "2 cores", "rows": [{}], "commit": "0123456789abc"}
  record |= {"versions": {"jax": "0.10", "python": "3.11"}}
  found = documents.tables.source(lambda name: record, "a")
  assert found.splitlines() == [
    "`python x.py --text=FILE`  ",
    "2026-11-30 · 2 cores · jax 0.10, Python 3.11 · commit 0123456789 · "
    "[a](../experiments/results/a.json)",
  ]
  del record["commit"]
  with pytest.raises(ValueError, match="one has no commit, measure it again"):
    documents.tables.source(lambda name: record, "a")


def test_examples_in_fenced_blocks_are_left_alone(statements):
  """Fails if a page cannot show how a number is marked."""
  text = '```md\n7<!--= memory("MiB", tokens=128) -->\n<!-- begin f() -->\n'
  text += "<!-- holds: 2 < 1 -->\n<!-- end -->\n```\n"
  assert not list(statements.check(text, read))
  assert not list(statements.check_blocks(text, {}, read))
  assert statements.write(text, {"f": lambda read: "x"}, read) == text
