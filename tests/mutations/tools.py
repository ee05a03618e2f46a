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
    "return work / 3 + traffic",
    "return work / 3",
    "plan",
  ),
  Mutation(
    "plan/memory_estimate.py",
    'gradient = sum(weights) if choice.policy == "sqrt" else 0',
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
]
