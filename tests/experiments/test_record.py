"""Results of experiments/: where they come from, and how they continue."""

import json

import pytest
from absl.testing import flagsaver


@pytest.fixture
def record(beside, monkeypatch, tmp_path):
  """Returns experiments/record.py with an empty folder of results."""
  import record

  monkeypatch.setattr(record, "RESULTS", tmp_path / "x" / "results")
  monkeypatch.setattr(record, "COMMIT", "0123")
  record.RESULTS.mkdir(parents=True)
  return record


def test_results_name_their_origin(record):
  """Fails if a number cannot be traced to a command, a commit and a machine."""
  record.save("a", [{"ratio": 2}], note="all")
  record.save("a", [{"ratio": 3}], quick=True)
  found = record.read(["a", "none"])
  assert list(found) == ["a"]
  assert found["a"]["commit"] == "0123"
  assert found["a"].keys() >= {"command", "date", "hardware", "versions"}
  assert (found["a"]["note"], found["a"]["rows"]) == ("all", [{"ratio": 2}])
  assert record.read(["a"], quick=True)["a"]["rows"] == [{"ratio": 3}]
  with pytest.raises(ValueError, match="no results of none: measure them"):
    record.read(["none"])


def test_a_command_names_no_folder_of_this_machine(record, monkeypatch):
  """Fails if a result is published with somebody's folders."""
  line = "x.py --quick --text /home/me/a.txt --workdir /tmp/w --ptb=/data/ptb"
  monkeypatch.setattr(record.sys, "argv", line.split())
  command = record.origin()["command"].split()
  assert command[2:] == ["--quick", "--text=a.txt", "--ptb=ptb"]


def test_a_row_of_unknown_code_says_so(record):
  """Fails if a run is said to be of the one commit that is known of it."""
  assert record.join_commits(["0123", None, "0123"]) == "0123 unknown"


def interrupt(record, **changes):
  """Stops at the last of three cases; returns what a second run measures."""
  done = []

  def measure(case):
    if case == 3 and broken:
      raise RuntimeError("killed")
    done.append(case)
    return [{"case": case}, {"case": -case}]

  broken = True
  with pytest.raises(RuntimeError, match="killed"):
    record.measure_in_stretches("a", (1, 2, 3), measure)
  assert not record.results_path("a", "json").exists()
  broken = False
  done.clear()
  with pytest.MonkeyPatch.context() as patch:
    for name, value in changes.items():
      patch.setattr(record, name, value)
    rows = record.measure_in_stretches("a", (1, 2, 3), measure)
  assert [row["case"] for row in rows] == [1, -1, 2, -2, 3, -3]
  return done


def test_a_run_continues_where_it_stopped(record):
  """Fails if half an hour of measuring is lost with the last minute."""
  assert interrupt(record) == [3]
  assert record.results_path("a", "partial").exists()
  record.save("a", [])
  assert not record.results_path("a", "partial").exists()


@pytest.mark.parametrize(
  "changes",
  [{"COMMIT": "4567"}, {"hardware": lambda: "another"}, {"COMMIT": None}],
)
def test_rows_of_another_origin_are_kept_apart(record, changes):
  """Fails if a table mixes two machines, or a run removes another's rows."""
  with pytest.raises(ValueError, match="a.partial has 2 measured cases with"):
    interrupt(record, **changes)
  stored = json.loads(record.results_path("a", "partial").read_text())
  assert len(stored["rows_of_cases"]) == 2


@pytest.mark.parametrize("commit", ["0123-dirty", None])
def test_rows_of_unknown_code_are_measured_again(record, monkeypatch, commit):
  """Fails if edits between two stretches go unnoticed."""
  monkeypatch.setattr(record, "COMMIT", commit)
  assert interrupt(record) == [1, 2, 3]


def test_a_file_is_replaced_at_once(record, monkeypatch):
  """Fails if results are lost when the disk is full."""
  record.save("a", [{"ratio": 2}])
  with pytest.raises(TypeError):
    record.save("a", [{"ratio": object()}])
  assert record.read(["a"])["a"]["rows"] == [{"ratio": 2}]
  assert json.loads(record.results_path("a", "json").read_text())


@pytest.fixture
def arguments(beside):
  """Returns experiments/arguments.py, and the flags of a script that trains."""
  import arguments

  flags = (
    arguments.define_text("A text."),
    arguments.define_workdir("runs/x"),
    arguments.define_quick("Small."),
  )
  with flagsaver.flagsaver():
    yield arguments, *flags


def parse(arguments, *values):
  """Parses a command line."""
  arguments.flags.FLAGS(["x", *values])


def test_a_small_run_needs_no_data(arguments):
  """Fails if --quick asks for a file, or a long run reads another one."""
  arguments, text, _, quick = arguments
  parse(arguments, "--quick")
  with open(arguments.text_path(text, quick), "rb") as file:
    assert len(file.read()) > 1.2 * 2**14  # For 16,384 tokens of 90 %.
  parse(arguments, "--quick", f"--text={__file__}")
  assert arguments.text_path(text, quick) == __file__
  parse(arguments, "--noquick", f"--text={__file__}")
  assert arguments.text_path(text, quick) == __file__


def test_a_part_does_not_replace_the_whole(arguments):
  """Fails if a trial with some of the cases overwrites a published table."""
  arguments, _, workdir, quick = arguments
  parse(arguments, "--quick")
  assert arguments.result_name("a", workdir) == "a"
  parse(arguments, "--workdir=x")
  assert arguments.result_name("a", quick, workdir) == "a_part"


def test_a_small_run_trains_anew(arguments, tmp_path):
  """Fails if --quick finds the finished run of the last --quick."""
  arguments, _, workdir, quick = arguments
  parse(arguments, "--quick")
  with arguments.open_workdir(workdir, quick) as first:
    (first / "run").mkdir()
  with arguments.open_workdir(workdir, quick) as second:
    assert not list(second.iterdir())
  assert first != second and not first.exists()
  parse(arguments, "--noquick")
  with arguments.open_workdir(workdir, quick) as folder:
    assert str(folder) == "runs/x"
  parse(arguments, "--quick", f"--workdir={tmp_path}")
  with arguments.open_workdir(workdir, quick) as folder:
    assert folder == tmp_path
  assert tmp_path.exists()
