"""Faults in meshes, in what devices exchange, and in what they share."""

from mutation import Mutation

LINEAR = "kernels/linear/test_sequence_parallel.py"
RING = "kernels/softmax/test_ring.py"
GRADIENTS = "scale/test_gradients.py"

MUTATIONS = [
  Mutation(
    "kernels/linear/sequence_parallel.py",
    "is_earlier = devices < jax",
    "is_earlier = devices <= jax",
    LINEAR,
  ),
  Mutation(
    "kernels/linear/sequence_parallel.py",
    "return jnp.where(is_earlier, xs, 0).sum(0), xs.sum(0)",
    "return jnp.where(is_earlier, xs, 0).sum(0), x",
    LINEAR,
  ),
  Mutation(
    "kernels/linear/sequence_parallel.py",
    "earlier = jnp.concatenate([jnp.zeros_like(sums[:1]), sums[:-1]])",
    "earlier = sums",
    LINEAR,
  ),
  Mutation(
    "kernels/linear/sequence_parallel.py",
    "add_sums(state, earlier)",
    "earlier",
    LINEAR,
  ),
  Mutation(
    "kernels/softmax/_ring_passes.py",
    "return step <= jax.lax.axis_index(self.axis_name)",
    "return step < jax.lax.axis_index(self.axis_name)",
    RING,
  ),
  Mutation(
    "kernels/softmax/_ring_passes.py",
    "(i + 1) % count",
    "(i - 1) % count",
    RING,
  ),
  Mutation(
    "kernels/softmax/_ring_passes.py",
    "*ring.pass_on(of_keys)",
    "*of_keys",
    RING,
  ),
  Mutation(
    "kernels/softmax/_ring_passes.py",
    "of_low = add_to_sum(of_low, found_low)",
    "del found_low",
    RING,
  ),
  Mutation(
    "kernels/token_orders.py",
    "2 * num_devices - 1 - devices",
    "num_devices + devices",
    "kernels/test_token_orders.py",
  ),
  Mutation(
    "models/sequence_axis.py",
    "return first + device * num_tokens + tokens",
    "return first + tokens",
    GRADIENTS,
  ),
  Mutation(
    "models/sequence_axis.py",
    "tokens < half, device, high_stripe",
    "tokens < half, high_stripe, device",
    GRADIENTS,
  ),
  Mutation(
    "models/language_model.py",
    "(1 if axis is None else axis.size)",
    "1",
    GRADIENTS,
  ),
  Mutation(
    "models/network.py",
    "positions = jnp.minimum(positions, self.embedding.max_positions - 1)",
    "pass",
    GRADIENTS,
  ),
  Mutation(
    "models/mixers/linear.py",
    "return state._replace(value_offset=after_first.value_offset)",
    "return state",
    GRADIENTS,
  ),
  Mutation(
    "scale/parameters.py",
    "return jax.lax.psum(x, others) if others else x",
    "return x",
    GRADIENTS,
  ),
  Mutation(
    "scale/parameters.py",
    "return vary(x, mesh.axis_names)",
    "return x",
    "scale/test_programs.py scale/test_gradients.py",
  ),
  Mutation(
    "scale/sharded.py",
    "batch.inputs.shape[0] * _row_index(mesh)",
    "0 * _row_index(mesh)",
    GRADIENTS,
  ),
  Mutation(
    "scale/batches.py",
    "np.pad(x, ((0, 0), (0, missing)))",
    "np.pad(x, ((0, 0), (0, missing)), mode='edge')",
    "scale/test_mesh.py scale/test_gradients.py",
  ),
  Mutation(
    "scale/collectives.py",
    "times * turns",
    "times",
    "scale/test_programs.py",
  ),
  Mutation(
    "training/devices.py",
    "num_parts *= config.train.accumulation_steps",
    "pass",
    "scale/test_mesh.py",
  ),
]
