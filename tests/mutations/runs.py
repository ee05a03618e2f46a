"""Faults in what a run keeps on disk and prints."""

from mutation import Mutation

MUTATIONS = [
  Mutation(
    "runs/resuming.py",
    "before = parse_config(record, RECORD)",
    "before = read_config(workdir)",
    "train/test_runs.py",
  ),
  Mutation(
    "runs/resuming.py",
    "    _check_checkpoints_remain(workdir)\n",
    "",
    "train/test_runs.py",
  ),
  Mutation(
    "runs/loop.py",
    "if self.evaluates_first and self.best.last_step != start:",
    "if self.evaluates_first:",
    "train/test_stopped_runs.py",
  ),
  Mutation(
    "runs/restoring.py",
    "steps = list_steps(workdir)[::-1]",
    "steps = list_steps(workdir)",
    "runs/test_checkpoints.py train",
  ),
  Mutation(
    "runs/restoring.py",
    "verify_checksums(folder)\n    except ValueError as error:\n      _LOG",
    "pass\n    except ValueError as error:\n      _LOG",
    "runs/test_checkpoints.py train",
  ),
  Mutation(
    "runs/checksums.py",
    "if name not in expected and name != _NAME:",
    "if False:",
    "runs/test_checksums.py",
  ),
  Mutation(
    "runs/checksums.py",
    "is_damaged = _checksum(path) != checksum",
    "is_damaged = False",
    "runs/test_checksums.py",
  ),
  Mutation(
    "runs/checkpoints.py",
    "state = jax.device_get(state)",
    "pass",
    "runs/test_checkpoints.py",
  ),
  Mutation(
    "runs/checkpoints.py",
    "[: -self._keep]) - keep_steps:",
    "[: -self._keep]):",
    "train/test_best.py",
  ),
  Mutation(
    "runs/best.py",
    "if not METRICS[self._metric]:",
    "if METRICS[self._metric]:",
    "runs/test_best.py",
  ),
  Mutation(
    "runs/best.py",
    "self.since += 1",
    "pass",
    "runs/test_best.py train/test_best.py",
  ),
  Mutation(
    "runs/fingerprints.py",
    "if now[split] != fingerprint:",
    'if split == "train" and now[split] != fingerprint:',
    "train/test_refusals.py",
  ),
  Mutation(
    "runs/resuming.py",
    'changes += [f"config.{name}" for name in changed]',
    "pass",
    "train/test_runs.py",
  ),
  Mutation(
    "runs/interruptions.py",
    "if number == SAVING:",
    "if False:",
    "runs/test_interruptions.py train/test_stopped_runs.py",
  ),
  Mutation(
    "runs/interruptions.py",
    "if left < num_steps * self._longest + save_seconds:",
    "if left < 0:",
    "runs/test_interruptions.py",
  ),
  Mutation(
    "runs/interruptions.py",
    "os._exit(128 + number)",
    "pass",
    "runs/test_interruptions.py",
  ),
  Mutation(
    "runs/loop.py",
    "if saving or ending:",
    "if saving:",
    "train/test_stopped_runs.py",
  ),
  Mutation(
    "runs/loop.py",
    "is_last = done == train.num_steps",
    "is_last = False",
    "train",
  ),
  Mutation(
    "runs/skips.py",
    "if skips and self.count < self._max_skipped:",
    "if skips:",
    "runs/test_skips.py",
  ),
  Mutation(
    "runs/metrics.py",
    "allow_nan=False",
    "allow_nan=True",
    "runs/test_metrics.py",
  ),
  Mutation(
    "runs/metrics.py",
    'and line.endswith(b"\\n")',
    "",
    "runs/test_metrics.py",
  ),
  Mutation(
    "runs/log_file.py",
    'self._file.write("".join(self._lines).encode(errors=_ESCAPE))',
    "pass",
    "runs/test_log_file.py",
  ),
  Mutation(
    "runs/choosing.py",
    'x["step"] in steps',
    "True",
    "test_export.py",
  ),
  Mutation(
    "runs/weights.py",
    'must_agree.append("seed")',
    "pass",
    "runs/weights",
  ),
  Mutation(
    "runs/workdir.py",
    "fcntl.LOCK_EX | fcntl.LOCK_NB",
    "fcntl.LOCK_SH | fcntl.LOCK_NB",
    "runs/test_workdir.py train",
  ),
  Mutation(
    "runs/workdir.py",
    "os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW",
    "os.O_RDWR | os.O_CREAT | os.O_TRUNC",
    "runs/test_workdir.py",
  ),
  Mutation(
    "runs/progress.py",
    "      self._report_sums = Sums(0.0, 0.0, 0.0)",
    "      pass",
    "runs/test_progress.py train",
  ),
  Mutation(
    "runs/progress.py",
    "left += count * sum(found) / len(found)",
    "pass",
    "runs/test_progress.py",
  ),
]
