"""Oracles: Algorithms 1 to 4 transcribed to NumPy float64, and optax's own Adam."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpjax
from tests import algorithms
from tests.devices import on_eight_devices

SHAPES = {"bias": (7,), "kernel": (6, 5), "row": (1, 9), "scale": (3,)}
STEPS = 50
NAMES = {
    "sgd": (sharpjax.sgd, algorithms.sgd),
    "normalized_sgd": (sharpjax.normalized_sgd, algorithms.normalized_sgd),
    "adam": (sharpjax.adam, algorithms.adam),
    "adafactor": (sharpjax.adafactor, algorithms.adafactor),
}


def stream(dtype=np.float64):
    """Parameters and 50 gradients with heavy tails and an exact zero row, as from embeddings."""
    rng = np.random.default_rng(0)
    draw = lambda: {k: (rng.standard_normal(s) ** 3).astype(dtype) for k, s in SHAPES.items()}  # noqa: E731
    params, gradients = draw(), [draw() for _ in range(STEPS)]
    for g in gradients:
        g["kernel"][2] = 0.0
    return params, gradients


def run(transformation, params, gradients, *, jit=True):
    params = jax.tree.map(jnp.asarray, params)
    state = transformation.init(params)
    update = jax.jit(transformation.update) if jit else transformation.update
    for g in gradients:
        updates, state = update(jax.tree.map(jnp.asarray, g), state, params)
        params = optax.apply_updates(params, updates)
        yield params


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fraction", (0.0, 0.05, 0.3, 0.8))
@pytest.mark.parametrize("rate", (0.1, "schedule", None))
def test_fifty_steps_are_the_papers_algorithm(x64, name, fraction, rate):
    ours, papers = NAMES[name]
    if rate is None and name != "adafactor":
        pytest.skip("only Adafactor has a relative step")
    given = optax.constant_schedule(0.1) if rate == "schedule" else rate
    params, gradients = stream()
    tree = run(ours(given, clip=fraction), params, gradients)
    arrays = papers(
        [params[k] for k in SHAPES],
        [[g[k] for k in SHAPES] for g in gradients],
        rate=0.1 if rate == "schedule" else rate,
        fraction=fraction,
    )
    # Adafactor's schedules and Adam's bias correction are float32 in optax.
    rtol = 1e-12 if "sgd" in name and rate != "schedule" else 2e-6
    for our, theirs in zip(tree, arrays, strict=True):
        for key, expected in zip(SHAPES, theirs, strict=True):
            np.testing.assert_allclose(our[key], expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("jit", (False, True))
def test_unclipped_adam_is_optax_adam(jit):
    params, gradients = stream(np.float32)
    ours = list(run(sharpjax.adam(0.01), params, gradients, jit=jit))[-1]
    theirs = list(run(optax.adam(0.01), params, gradients, jit=jit))[-1]
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6)


def test_numerator_clip_is_not_clipping_before_adam():
    params, gradients = stream(np.float32)
    numerator = list(run(sharpjax.adam(0.01, clip=0.3), params, gradients))[-1]
    chained = optax.chain(sharpjax.coord_clip(0.3), optax.adam(0.01))
    before = list(run(chained, params, gradients))[-1]
    difference = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), numerator, before)
    assert max(jax.tree.leaves(difference)) > 1e-2


@pytest.mark.parametrize("scale", (1e-30, 1e-3, 1e3, 1e30))
def test_normalised_direction_is_invariant_to_scale(scale):
    params, gradients = stream(np.float32)
    direction = sharpjax.optimizers.normalize_by_tensor_rms()
    reference, _ = direction.update(gradients[0], direction.init(params))
    scaled = jax.tree.map(lambda g: g * np.float32(scale), gradients[0])
    updates, _ = direction.update(scaled, direction.init(params))
    chex.assert_trees_all_close(updates, reference, rtol=1e-5)
    for update in jax.tree.leaves(updates):
        np.testing.assert_allclose(np.sqrt(np.mean(np.square(update))), 1, rtol=1e-5)


def test_normalising_zero_gives_zero():
    direction = sharpjax.optimizers.normalize_by_tensor_rms()
    zero = {"a": jnp.zeros((3, 2)), "empty": jnp.zeros((0, 2))}
    updates, _ = direction.update(zero, direction.init(zero))
    chex.assert_trees_all_equal(updates, zero)


@pytest.mark.parametrize("name", sharpjax.paper_algorithms())
def test_each_of_the_seven_works_as_optax_transformations_do(name):
    params, gradients = stream(np.float32)
    params = jax.tree.map(jnp.asarray, params)
    transformation = sharpjax.paper_algorithms()[name]
    plain = list(run(transformation, params, gradients[:3]))[-1]
    chex.assert_trees_all_equal_shapes_and_dtypes(plain, params)
    chex.assert_tree_all_finite(plain)
    eager = list(run(transformation, params, gradients[:3], jit=False))[-1]
    chex.assert_trees_all_close(eager, plain, rtol=1e-5)
    masked = optax.masked(
        transformation, {"bias": True, "kernel": True, "row": False, "scale": True}
    )
    assert len(list(run(masked, params, gradients[:3]))) == 3
    several = optax.MultiSteps(transformation, 2).gradient_transformation()
    assert len(list(run(several, params, gradients[:4]))) == 4


def test_paper_algorithms_are_the_seven_at_rate_one():
    names = list(sharpjax.paper_algorithms())
    assert names == [
        "sgd",
        "sgd_clip",
        "adam",
        "adafactor",
        "adafactor_clip",
        "normalized_sgd",
        "normalized_sgd_clip",
    ]
    params, gradients = stream(np.float32)
    first = sharpjax.paper_algorithms()["sgd"]
    updates, _ = first.update(gradients[0], first.init(params), params)
    chex.assert_trees_all_close(updates, jax.tree.map(lambda g: -0.1 * g, gradients[0]), rtol=1e-6)
    # A fraction of 1 makes clipped SGD's first step a sign step.
    sign = sharpjax.paper_algorithms(clip=1.0)["sgd_clip"]
    nonzero = {k: np.where(g == 0, 1, g) for k, g in gradients[0].items()}
    updates, _ = sign.update(nonzero, sign.init(params), params)
    assert len(np.unique(np.abs(np.concatenate([np.ravel(u) for u in updates.values()])))) == 1


@pytest.mark.parametrize(
    ("factory", "hyperparameters"),
    [
        (sharpjax.sgd, {"learning_rate": 0.1, "momentum": 0.9, "clip": 0.3}),
        (sharpjax.normalized_sgd, {"learning_rate": 0.1, "momentum": 0.9, "clip": 0.3}),
        (sharpjax.adam, {"learning_rate": 0.1, "b1": 0.8, "clip": 0.3}),
        (sharpjax.adafactor, {"learning_rate": 0.1, "clip": 0.3}),
    ],
)
def test_hyperparameters_can_be_injected_and_scheduled(factory, hyperparameters):
    params, gradients = stream(np.float32)
    plain = list(run(factory(**hyperparameters), params, gradients[:4]))[-1]
    injected = optax.inject_hyperparams(factory)(**hyperparameters)
    chex.assert_trees_all_close(list(run(injected, params, gradients[:4]))[-1], plain, rtol=1e-4)
    schedule = optax.linear_schedule(0.0, 0.5, 3)
    scheduled = optax.inject_hyperparams(factory)(**{**hyperparameters, "clip": schedule})
    jax.block_until_ready(list(run(scheduled, params, gradients[:4])))


def test_tensors_of_three_axes_are_stacks_of_matrices():
    gradient = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 3)), jnp.float32)
    stacked = sharpjax.optimizers.scale_by_clipped_factored_rms()
    updates, state = stacked.update([gradient], stacked.init([gradient]))
    assert state.rows[0].shape == (2, 4) and state.columns[0].shape == (2, 3)
    for i in range(2):
        alone, _ = stacked.update([gradient[i]], stacked.init([gradient[i]]))
        np.testing.assert_allclose(updates[0][i], alone[0], rtol=1e-6)


def test_factored_statistics_survive_tiny_and_bfloat16_gradients():
    transformation = sharpjax.optimizers.scale_by_clipped_factored_rms()
    tiny = [jnp.full((4, 3), 1e-12).at[1].set(0.0), jnp.full((4, 3), 0.5, jnp.bfloat16)]
    updates, state = transformation.update(tiny, transformation.init(tiny))
    chex.assert_tree_all_finite(updates)
    assert updates[1].dtype == jnp.bfloat16 and state.rows[1].dtype == jnp.float32


def test_the_relative_step_needs_parameters():
    transformation = sharpjax.adafactor()
    gradient = {"a": jnp.ones(3)}
    with pytest.raises(ValueError, match="params"):
        transformation.update(gradient, transformation.init(gradient))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: sharpjax.sgd(-0.1),
            ValueError,
            r"learning_rate must be in \[0.0, inf\), got -0.1",
        ),
        (lambda: sharpjax.sgd(float("nan")), ValueError, "learning_rate must be .* got nan"),
        (lambda: sharpjax.sgd("fast"), TypeError, "learning_rate must be a number .* got 'fast'"),
        (lambda: sharpjax.sgd(0.1, 1.0), ValueError, r"momentum must be in \[0.0, 1.0\), got 1.0"),
        (lambda: sharpjax.normalized_sgd(0.1, -0.5), ValueError, "momentum must be .* got -0.5"),
        (lambda: sharpjax.sgd(0.1, clip=1.5), ValueError, r"clip must be in \[0.0, 1.0\], got 1.5"),
        (lambda: sharpjax.adam(0.1, b1=1.0), ValueError, "b1 must be .* got 1.0"),
        (lambda: sharpjax.adam(0.1, b2=-1.0), ValueError, "b2 must be .* got -1.0"),
        (lambda: sharpjax.adam(0.1, eps=-1.0), ValueError, "eps must be .* got -1.0"),
        (lambda: sharpjax.adam(True), TypeError, "learning_rate must be a number .* got True"),
        (lambda: sharpjax.adafactor(-1.0), ValueError, "learning_rate must be .* got -1.0"),
        (lambda: sharpjax.adafactor(clip="all"), TypeError, "clip must be a number .* got 'all'"),
        (lambda: sharpjax.paper_algorithms(2.0), ValueError, "clip must be .* got 2.0"),
    ],
)
def test_bad_input_names_the_argument_and_the_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


_SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import sharpjax

draw = np.random.default_rng(0).standard_normal
shapes = {"a": (16, 6), "b": (8,), "c": (3, 8)}
specs = {"a": P("x"), "b": P("x"), "c": P(None, "x")}
# Of the sums along a matrix's rows, and along its columns.
sums = {"a": (P("x"), P()), "c": (P(), P("x"))}
params, grads = ({k: draw(s).astype(np.float32) for k, s in shapes.items()} for _ in range(2))
made = {}
for clip in (0.0, 0.25):
    made |= {f"sgd {clip}": sharpjax.sgd(1.0, clip=clip)}
    made |= {f"adam {clip}": sharpjax.adam(1.0, clip=clip)}
    made |= {f"adafactor {clip}": sharpjax.adafactor(clip=clip)}
# All in one program.
every = sharpjax.pseudo_updates(made | {"lion": sharpjax.lion(1.0, saturate=0.25)})


def step(params, grads):
    first = every.init(params)
    return first, *jax.jit(every.update)(grads, first, params)


expected = step(params, grads)
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    place = lambda spec: NamedSharding(mesh, spec)
    put = lambda tree: {k: jax.device_put(v, place(specs[k])) for k, v in tree.items()}
    with jax.set_mesh(mesh):
        found = step(put(params), put(grads))
    checked = 0
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6, err_msg=path)
        leaf, at = getattr(path[-1], "key", None), jax.tree_util.keystr(path)
        if leaf in shapes and x.shape != (1,):
            spec = specs[leaf] if x.shape == shapes[leaf] else sums[leaf][".columns" in at]
            assert x.sharding.is_equivalent_to(place(spec), x.ndim), (kind, at, x.sharding)
            checked += 1
    # Seven updates of three leaves; of the states before and after, a momentum, two moments, and
    # two rows, two columns and a vector, each twice; and Lion's momentum.
    assert checked == 21 + 2 * (2 * (3 + 6 + 5) + 3), checked
print("passed")
"""


def test_states_and_updates_lie_where_their_parameters_do():
    # A compiler that does not take its time.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    assert on_eight_devices(_SHARDED, XLA_FLAGS=flags) == "passed"
