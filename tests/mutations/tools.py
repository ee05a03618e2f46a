"""Faults in certify, plan and memory."""

from mutation import Mutation

MUTATIONS = [
  Mutation(
    "certify/gradients.py",
    "(weights.conj() * x).real.sum()",
    "(weights.real * x.real).sum()",
    "certify",
  ),
  Mutation(
    "certify/checks.py",
    "max(0.0, slope),",
    "0.0,",
    "certify",
  ),
  Mutation(
    "certify/certify_step.py",
    "return distance(before, after) > 0",
    "return False",
    "certify",
  ),
  Mutation(
    "certify/from_config.py",
    "Certificate((*certificate.checks, *training))",
    "certificate",
    "certify/test_from_config.py",
  ),
  Mutation(
    "plan/time_estimate.py",
    "work / 3 + num_bytes * operations_per_byte / (3 * flops)",
    "work / 3",
    "plan",
  ),
  Mutation(
    "plan/memory_estimate.py",
    'gradient = sum(weights) if by_scan and choice.policy == "sqrt" else 0',
    "gradient = 0",
    "plan",
  ),
  Mutation(
    "plan/search.py",
    "    if total <= budget:\n      break",
    "    if total <= 2 * budget:\n      break",
    "plan",
  ),
  Mutation(
    "memory/timeline.py",
    "buffers.sort(reverse=True)",
    "buffers.sort()",
    "memory",
  ),
  Mutation(
    "memory/live_ranges.py",
    "total += max(0, stop - max(value.address, end))",
    "total += value.size",
    "memory",
  ),
  Mutation(
    "plan/time_estimate.py",
    "num_parts * 3 * at_least",
    "3 * at_least",
    "plan",
  ),
  Mutation(
    "targets/roofline.py",
    "at_least += x.times * max(compute, traffic)",
    "at_least += x.times * traffic",
    "plan targets",
  ),
  Mutation(
    "targets/matrix_products.py",
    'times = params["length"] if name == "scan" else 1',
    "times = 1",
    "targets",
  ),
  Mutation(
    "targets/matrix_products.py",
    "sum(x.size * x.dtype.itemsize for x in (*operands, result))",
    "sum(x.size * x.dtype.itemsize for x in operands)",
    "targets",
  ),
  Mutation(
    "targets/matrix_products.py",
    'jax.lax.Precision.HIGHEST: "float32"',
    'jax.lax.Precision.HIGHEST: "default"',
    "targets",
  ),
  Mutation(
    "targets/target.py",
    "return int(float(text) * device.memory_bytes)",
    "return device.memory_bytes",
    "targets",
  ),
  Mutation(
    "targets/topologies.py",
    'if "lockfile" in reason:',
    'if "no such word" in reason:',
    "targets",
  ),
]
