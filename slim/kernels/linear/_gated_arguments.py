"""The arguments of gated linear attention, checked once for both forms."""

import jax
import jax.numpy as jnp

from slim.kernels.support.dtypes import at_least_float32, promote
from slim.kernels.support.explicit_meshes import is_sharded
from slim.kernels.support.mesh_axes import match_varying_axes
from slim.kernels.support.shapes import check_float, check_shape


def check_gated(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  log_decay: jax.Array,
  state: jax.Array,
  erase: jax.Array | None,
) -> tuple[jax.Array, ...]:
  """Checks the arguments, and casts them to the dtype of the state.

  Args:
    q: As for `chunked_gated_linear_attention`, as are the others.
    k: Likewise.
    v: Likewise.
    log_decay: Likewise.
    state: Likewise.
    erase: Likewise.

  Returns:
    q, k, v, log_decay [B, T, H, 1 or K], state, and erase or None.

  Raises:
    ValueError: If an argument has the wrong shape or dtype.
  """
  # First, because NumPy arrays may be wider than JAX allows.
  arrays = {"q": q, "k": k, "v": v, "log_decay": log_decay, "state": state}
  if erase is not None:
    arrays["erase"] = erase
  arrays = {name: jnp.asarray(x) for name, x in arrays.items()}
  for name, x in arrays.items():
    check_float(name, x)
  q = arrays["q"]
  check_shape("q", q, "BTHK", {})
  sizes = dict(zip("BTHK", q.shape, strict=True))
  check_shape("k", arrays["k"], "BTHK", sizes)
  check_shape("v", arrays["v"], "BTHV", sizes)
  sizes["V"] = arrays["v"].shape[-1]
  per_head = arrays["log_decay"].ndim == 3
  check_shape(
    "log_decay", arrays["log_decay"], "BTH" if per_head else "BTHK", sizes
  )
  check_shape("state", arrays["state"], "BHKV", sizes)
  if erase is not None:
    check_shape("erase", arrays["erase"], "BTHK", sizes)
  dtype = at_least_float32(*(x.dtype for x in arrays.values()))
  if promote(arrays["state"].dtype) != dtype:
    raise ValueError(
      f"state must have dtype {dtype} for these arguments, got "
      f"{arrays['state'].dtype}; pass the dtype to init_gated_state"
    )
  if per_head:
    arrays["log_decay"] = arrays["log_decay"][..., None]
  arrays = {name: x.astype(dtype) for name, x in arrays.items()}
  if is_sharded(q):
    # Adding zeros shards sequences and heads of all like those of q.
    zeros = jnp.zeros_like(q[..., :1], dtype)
    arrays["state"] = arrays["state"] + zeros[:, 0, :, :, None]
    arrays = {
      name: x if name == "state" else x + zeros for name, x in arrays.items()
    }
  # In shard_map, a state that was made there does not vary as the tokens do.
  arrays = match_varying_axes(arrays)
  return *(arrays[name] for name in ("q", "k", "v", "log_decay", "state")), (
    arrays.get("erase")
  )
