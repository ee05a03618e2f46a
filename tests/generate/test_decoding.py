"""What is generated is what the whole sequence would predict."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.generate import Sampling, decoding, generate, stream
from slim.kernels.support.random_bits import fold_in
from tests.models.small import apply_of, create, params_of, tokens_of

KEY = jax.random.key(3)
GREEDY = Sampling(temperature=0.0)
MODELS = {
  "linear": {"num_layers": 2},
  "softmax": {"attention": "softmax", "positions": "learned"},
  "local": {"attention": "local", "positions": "rotary"},
  "hybrid": {"attention": "linear,local,chunked_softmax", "num_layers": 3},
  # One bucket, as the tokens to come change which keys others meet.
  "lsh": {"attention": "lsh", "positions": "axial", "bucket_size": 400},
}


@jax.jit
def draw(key, position, logits):
  """Draws the token at a position."""
  return jax.random.categorical(fold_in(key, position), logits)


@functools.cache
def one_by_one(name, prompt_length, length):
  """Generates by applying the model to all tokens so far, without a state."""
  model = create(**MODELS[name])
  params = params_of(model)
  tokens = tokens_of(2, prompt_length)
  keys = fold_in(KEY, jnp.arange(2))
  size = prompt_length + length
  for position in range(prompt_length, size):
    # Padded at the end, which no token sees, so that one program does for all.
    whole = np.pad(tokens, ((0, 0), (0, size - position)))
    logits, _ = apply_of(model)(params, whole, model.init_state(2))
    rows = np.asarray(logits)[:, position - 1]
    drawn = [
      draw(key, position, row) for key, row in zip(keys, rows, strict=True)
    ]
    tokens = np.concatenate([tokens, np.int32(drawn)[:, None]], 1)
  return tokens[:, prompt_length:]


@pytest.mark.parametrize("name", ["linear", "local", "hybrid", "lsh"])
def test_tokens_are_those_of_the_whole_sequence(x64, name):
  """Fails if a state forgets, a position is off or a key is used twice."""
  model = create(**MODELS[name])
  right = one_by_one(name, 6, 7)
  found = generate(
    model, params_of(model), tokens_of(2, 6), length=7, key=KEY, chunk_size=4
  )
  np.testing.assert_array_equal(found, right)
  blocks = list(
    stream(
      model,
      params_of(model),
      tokens_of(2, 6),
      length=7,
      key=KEY,
      chunk_size=1,
      block_size=3,
    )
  )
  assert [block.shape for block in blocks] == [(2, 3), (2, 3), (2, 1)]
  np.testing.assert_array_equal(np.concatenate(blocks, 1), right)


@pytest.mark.parametrize("name", ["linear", "local", "lsh"])
def test_a_sample_does_not_depend_on_others(x64, name):
  """Fails if the same seed draws another text for another batch."""
  model = create(**MODELS[name])
  # Two, as above, are drawn by the same program.
  prompt = np.repeat(tokens_of(1, 3), 2, 0)
  two, one = (
    generate(model, params_of(model), p, length=9, key=KEY)
    for p in (prompt, prompt[:1])
  )
  np.testing.assert_array_equal(two[:1], one)
  assert tuple(two[0]) != tuple(two[1])


def test_buckets_are_those_of_the_padded_sequence(x64):
  """Fails if LSH attention of a generation is not what is documented."""
  model = create(attention="lsh", positions="rotary", num_hashes=1)
  prompt = tokens_of(1, 20)
  padded = np.pad(prompt, ((0, 0), (0, 256 - 20)))
  logits, _ = apply_of(model)(params_of(model), padded, None)
  found = generate(
    model, params_of(model), prompt, length=1, key=KEY, sampling=GREEDY
  )
  assert found == np.argmax(logits[0, 19])


@pytest.mark.parametrize("name", ["linear", "softmax"])
def test_other_lengths_compile_nothing(x64, name):
  """Fails if each prompt, length or temperature compiles a program."""
  model, programs = create(**MODELS[name]), (decoding._read, decoding._draw)

  def run(prompt_length, length, **sampling):
    prompt = tokens_of(1, prompt_length)
    generate(
      model,
      params_of(model),
      prompt,
      length=length,
      key=KEY,
      sampling=Sampling(**sampling),
      chunk_size=4,
    )

  run(9, 3)
  before = [program._cache_size() for program in programs]
  run(6, 10, temperature=0.3, top_k=4)
  run(30, 1, top_p=0.5, min_p=0.1)
  assert [program._cache_size() for program in programs] == before


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"prompt": np.zeros((1, 0), int)}, r"one token or more, got int64\[1, 0"),
    ({"prompt": np.zeros(3, int)}, r"must be integers \[B, P\]"),
    ({"prompt": np.zeros((1, 3))}, r"got float64\[1, 3\]"),
    ({"prompt": np.array([[1, -1]])}, "from 0 to 12, got tokens from -1 to 1$"),
    ({"prompt": np.array([[2, 31]])}, "from 0 to 12, got tokens from 2 to 31$"),
    ({"length": 0}, "length must be a positive integer, got 0"),
    ({"length": 68}, "length must be at most 67, .* 70 tokens and .* has 3"),
    ({"chunk_size": 0}, "chunk_size must be"),
    ({"key": 3}, "key must be PRNG keys"),
    ({"sampling": Sampling(top_k=-1)}, "top_k must be in"),
  ],
)
def test_what_cannot_be_generated_is_refused(x64, arguments, message):
  """Fails if a mistake is found after the first tokens, or never."""
  model = create(**MODELS["softmax"])
  good = {"prompt": tokens_of(1, 3), "length": 3, "key": KEY}
  params = jax.eval_shape(model.init, KEY)
  with pytest.raises(ValueError, match=message):
    stream(model, params, **good | arguments)


def test_what_a_model_keeps_may_be_a_dictionary(x64):
  """Fails if a mixer that trains cannot generate."""
  model = create(**MODELS["linear"])._replace(kept={"memory": True})
  found = generate(model, params_of(model), tokens_of(1, 2), length=1, key=KEY)
  assert found.shape == (1, 1)
