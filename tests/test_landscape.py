import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpjax
from tests.cases import network, quadratic, random_like
from tests.devices import on_eight_devices

KEY = jax.random.key(0)
BATCHES = {
    "x": jax.random.normal(jax.random.key(1), (3, 8, 3)),
    "y": jax.random.normal(jax.random.key(2), (3, 8, 2)),
}
ONE = jnp.ones((1, 1))


def bowl_loss(params, batch, curvature, slope, offset=3.0):
    """A parabola along the first axis with its minimum slope/curvature from 0."""
    a, b = params["a"][0], params["b"]
    return offset - slope * a + curvature * a**2 / 2 + batch.mean() * jnp.sum(b**2)


def bowl(dtype=jnp.float32):
    params = {"a": jnp.zeros(1, dtype), "b": jnp.zeros(2, dtype)}
    return params, {"a": jnp.full(1, 7.0, dtype), "b": jnp.zeros(2, dtype)}


def along_a_line(f, initial_step=None, start=0.0, **options):
    """The search of a function of one step s, f(start + s)."""
    loss = lambda params, batch: f(params[0]) * batch.mean()  # noqa: E731
    return sharpjax.search_along(
        loss, jnp.full(1, start), jnp.full(1, 3.0), ONE, initial_step=initial_step, **options
    )


# The loss along a direction -----------------------------------------------------------------------


def test_loss_along_is_the_loss_at_the_displaced_parameters():
    loss, params, _ = network(KEY)
    direction = random_like(jax.random.key(4), params)
    norm = np.sqrt(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(direction)))
    steps = jnp.array([0.0, -0.5, 2.0])
    losses = sharpjax.loss_along(loss, params, direction, steps, BATCHES)
    assert losses.shape == (3,) and losses.dtype == jnp.float32
    for step, value in zip(steps, losses, strict=True):
        there = jax.tree.map(lambda p, d, s=step: p + s * d / norm, params, direction)
        each = [loss(there, jax.tree.map(lambda x, i=i: x[i], BATCHES)) for i in range(3)]
        np.testing.assert_allclose(value, np.mean(each), rtol=1e-6)


def test_loss_along_takes_arguments_and_an_auxiliary_output():
    loss, params, _ = network(KEY)
    one = jax.tree.map(lambda x: x[:1], BATCHES)
    key = jax.random.key(5)
    expected = loss(params, jax.tree.map(lambda x: x[0], one), key)
    with_aux = lambda *inputs: (loss(*inputs), {"unused": 0})  # noqa: E731
    for f, has_aux in ((loss, False), (with_aux, True)):
        losses = sharpjax.loss_along(f, params, params, [0.0], one, args=(key,), has_aux=has_aux)
        np.testing.assert_allclose(losses[0], expected, rtol=1e-6)
        found = sharpjax.search_along(f, params, params, one, args=(key,), has_aux=has_aux)
        np.testing.assert_allclose(found.losses[0], expected, rtol=1e-6)


@pytest.mark.parametrize("dtype, value", ((jnp.bfloat16, 1.0), (jnp.float16, 100.0)))
def test_losses_of_16_bits_are_added_up_in_float32(dtype, value):
    loss = lambda p, batch: jnp.asarray(value, dtype) + 0 * p[0].astype(dtype) * batch[0]  # noqa: E731
    batches = jnp.ones((1024, 1), dtype)
    losses = sharpjax.loss_along(loss, jnp.ones(1, dtype), jnp.ones(1, dtype), [0.0], batches)
    assert losses.dtype == jnp.float32
    assert losses.tolist() == [value]


def test_steps_are_taken_in_the_widened_type_of_the_parameters():
    """In bfloat16 a step of 1e-3 would leave 1.0 where it is."""
    loss = lambda p, batch: p[0].astype(jnp.float32) * batch[0]  # noqa: E731
    one = jnp.ones(1, jnp.bfloat16)
    losses = sharpjax.loss_along(loss, one, one, [1e-3], ONE)
    np.testing.assert_allclose(losses, [1.001], rtol=1e-6)


@pytest.mark.parametrize("types", [(np.float32, np.float64), (np.float64, np.float32)])
def test_types_may_be_mixed_under_x64(x64, types):
    loss, params, _ = network(KEY)
    params = jax.tree.map(lambda x: np.asarray(x, types[0]), params)
    direction = jax.tree.map(lambda x: np.asarray(-x, types[1]), params)
    batches = jax.tree.map(lambda x: np.asarray(x, types[1]), BATCHES)
    losses = sharpjax.loss_along(loss, params, direction, np.array([0.0, 0.1]), batches)
    exact = [jax.tree.map(lambda x: np.asarray(x, np.float64), t) for t in (params, batches)]
    norm = np.sqrt(sum(np.sum(x**2.0) for x in jax.tree.leaves(exact[0])))
    there = jax.tree.map(lambda x: x * (1 - 0.1 / norm), exact[0])
    each = [loss(there, jax.tree.map(lambda x, i=i: x[i], exact[1])) for i in range(3)]
    np.testing.assert_allclose(losses[1], np.mean(each), rtol=1e-6)
    assert sharpjax.search_along(loss, params, direction, batches).status == "minimum"


def test_loss_along_may_be_jitted_and_a_fresh_argument_compiles_nothing():
    traces = []

    def loss(params, batch, scale):
        traces.append(1)
        return scale * jnp.sum(params**2) * batch.mean()

    x = jnp.array([3.0, 4.0])
    run = jax.jit(lambda steps, scale: sharpjax.loss_along(loss, x, -x, steps, ONE, args=(scale,)))
    np.testing.assert_allclose(run(jnp.array([0.0, 5.0]), 2.0), [50, 0], atol=1e-6)
    sharpjax.search_along(loss, x, -x, ONE, args=(2.0,))
    before = len(traces)
    for scale in (3.0, 4.0):
        found = sharpjax.search_along(loss, x, -x, ONE, args=(scale,))
        np.testing.assert_allclose(found.best_decrease, 25 * scale, rtol=1e-5)
    assert len(traces) == before


# The search ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("curvature", (1e-8, 1.0, 1e6))
@pytest.mark.parametrize("initial_step", (None, 1e-9, 1.0, 1e9))
def test_search_finds_a_parabolas_minimum_from_any_scale(x64, curvature, initial_step):
    params, direction = bowl(jnp.float64)
    found = sharpjax.search_along(
        bowl_loss,
        params,
        direction,
        jnp.ones((2, 1)),
        args=(curvature, 2.0),
        initial_step=initial_step,
    )
    assert found.status == "minimum"
    np.testing.assert_allclose(found.best_step, 2 / curvature, rtol=1e-4)
    np.testing.assert_allclose(found.best_decrease, 2 / curvature, rtol=1e-6)
    np.testing.assert_allclose(found.critical_step, 4 / curvature, rtol=1e-3)
    assert found.steps[0] == 0 and np.all(np.diff(found.steps) > 0)
    assert len(found.steps) == len(found.losses) < 70


@pytest.mark.parametrize("initial_step", (None, 1e-300, 1e-8, 1.0, 2.0, 4.0, 16.0, 1e10))
@pytest.mark.parametrize("minimum", (1e-10, 1e-5, 2.0, 1e5, 1e10))
def test_search_finds_a_parabolas_minimum_in_float32(initial_step, minimum):
    """The decrease is a third of the loss, whatever the scale of the steps."""
    params, direction = bowl()
    args = (2 / minimum**2, 2 / minimum)
    found = sharpjax.search_along(
        bowl_loss, params, direction, ONE, args=args, initial_step=initial_step
    )
    assert found.status == "minimum"
    np.testing.assert_allclose(found.best_step, minimum, rtol=5e-3)
    np.testing.assert_allclose(found.best_decrease, 1.0, rtol=1e-5)
    np.testing.assert_allclose(found.critical_step, 2 * minimum, rtol=1e-3)
    assert len(found.steps) <= 70


def test_search_finds_the_minimum_of_a_matrix_tuned_from_zero():
    """Parameters of norm 1e-3, a Newton step of 13: a thousandth of the norm changes nothing."""
    keys = jax.random.split(jax.random.key(3), 2)
    target = 13.4 * jax.random.normal(keys[0], (8, 8)) / 8
    delta = 1e-3 * jax.random.normal(keys[1], (8, 8)) / 8

    def loss(params, batch):
        return 3.0 + batch.mean() * 0.5 / 13.4 * jnp.sum((params - target) ** 2) / 2

    direction = target - delta
    distance = float(jnp.linalg.norm(direction))
    for initial_step in (None, 1e-6):
        found = sharpjax.search_along(loss, delta, direction, ONE, initial_step=initial_step)
        np.testing.assert_allclose(found.best_step, distance, rtol=1e-2)
        np.testing.assert_allclose(found.critical_step, 2 * distance, rtol=1e-3)
        assert found.status == "minimum"


@pytest.mark.parametrize("initial_step", (None, 1e-3, 1.0, 1e3))
def test_a_quartic_in_closed_form(initial_step):
    """f = s⁴/4 − s: minimum −3/4 at 1, back at the start at 4^(1/3)."""
    found = along_a_line(lambda s: 1 + s**4 / 4 - s, initial_step)
    assert found.status == "minimum"
    np.testing.assert_allclose(found.best_step, 1, rtol=1e-2)
    np.testing.assert_allclose(found.best_decrease, 0.75, rtol=1e-4)
    np.testing.assert_allclose(found.critical_step, 4 ** (1 / 3), rtol=1e-3)


def test_a_kink_without_a_newton_step():
    found = along_a_line(jnp.abs, start=-5.0)
    assert found.status == "minimum"
    np.testing.assert_allclose(found.best_step, 5, rtol=1e-3)
    np.testing.assert_allclose(found.best_decrease, 5, rtol=1e-3)
    np.testing.assert_allclose(found.critical_step, 10, rtol=1e-3)


@pytest.mark.parametrize("initial_step", (None, 0.1, 1e-4))
def test_a_double_well(initial_step):
    """Wells at ±1 and a barrier below the start between: the loss is back behind the second."""
    f = lambda s: (s**2 - 1) ** 2 + s / 10  # noqa: E731
    found = along_a_line(f, start=-1.8, initial_step=initial_step)
    grid = np.linspace(-1.8, 3, 480_001)
    back = grid[np.flatnonzero((f(grid) >= f(-1.8)) & (grid > -1.7))[0]] + 1.8
    np.testing.assert_allclose(found.losses.min(), f(grid).min(), atol=2e-4)
    np.testing.assert_allclose(found.critical_step, back, rtol=1e-3)


def test_a_barrier_that_reaches_the_start_ends_the_critical_step():
    """Two wells with a barrier above the start between: the least crossing counts."""
    f = lambda s: 1 - jnp.sin(s) - 0.2 * s * (s > 5)  # noqa: E731
    found = along_a_line(f, initial_step=1.0)
    np.testing.assert_allclose(found.critical_step, np.pi, rtol=1e-3)
    np.testing.assert_allclose(found.best_step, np.pi / 2, rtol=1e-2)


def test_a_plateau_has_no_critical_step():
    found = along_a_line(lambda s: 2 + jnp.exp(-s), initial_step=1e-3)
    assert found.status == "minimum"
    np.testing.assert_allclose(found.best_decrease, 1, rtol=1e-5)
    assert found.critical_step == np.inf


@pytest.mark.parametrize("f", (lambda s: -s, lambda s: 1 - s - s**3, lambda s: 1 - jnp.exp(s)))
def test_a_loss_without_a_floor_is_unbounded(f):
    """A line to 1e30; a cubic and an exponential, which overflow to −∞."""
    found = along_a_line(f)
    assert found.status == "unbounded"
    assert found.critical_step == np.inf
    assert np.isfinite(found.best_decrease) and found.best_decrease > 1e6
    assert len(found.steps) <= 100


def test_minus_infinity_is_not_a_minimum():
    found = along_a_line(lambda s: jnp.log(jnp.abs(1 - s)), initial_step=0.5)
    assert found.status == "unbounded" and np.isfinite(found.best_decrease)
    assert -np.inf in found.losses and found.best_step != 1


def test_search_agrees_with_a_dense_grid_on_a_network():
    loss, params, _ = network(KEY)
    total = lambda p: sum(  # noqa: E731
        loss(p, jax.tree.map(lambda x, i=i: x[i], BATCHES)) for i in range(3)
    )
    descent = jax.tree.map(jnp.negative, jax.grad(total)(params))
    found = sharpjax.search_along(loss, params, descent, BATCHES)
    grid = jnp.linspace(0, 4 * found.best_step, 4001)
    losses = sharpjax.loss_along(loss, params, descent, grid, BATCHES)
    assert found.status == "minimum"
    assert found.losses.min() <= losses.min() + 1e-6
    assert found.best_decrease == found.losses[0] - found.losses.min() > 0
    back = float(grid[1 + int(jnp.argmax(losses[1:] >= losses[0]))])
    np.testing.assert_allclose(found.critical_step, back, rtol=2e-3)
    # The plotted grid ends where the loss is back at its start.
    assert np.min(np.abs(found.steps - found.critical_step)) <= 1e-4 * found.critical_step


@pytest.mark.parametrize("slope", (-2.0, 0.0))
def test_an_ascent_direction_and_a_minimum_have_no_best_step(slope):
    params, direction = bowl()
    found = sharpjax.search_along(bowl_loss, params, direction, ONE, args=(1.0, slope))
    assert (found.best_step, found.best_decrease, found.critical_step) == (0, 0, 0)
    assert found.status == "no decrease"


def test_a_decrease_below_the_resolution_is_none():
    """Nothing is made of the noise of a loss of 3 whose quadratic is 1e-8 deep."""
    params, direction = bowl()
    found = sharpjax.search_along(bowl_loss, params, direction, ONE, args=(2e-8, 2e-8))
    assert found.status == "no decrease"


@pytest.mark.parametrize("value", (0.0, np.nan, np.inf))
def test_a_direction_that_is_zero_or_not_finite(value):
    params, direction = bowl()
    direction = jax.tree.map(lambda x: jnp.full_like(x, value), direction)
    found = sharpjax.search_along(bowl_loss, params, direction, ONE, args=(1.0, 2.0))
    fields = np.array([found.best_step, found.best_decrease, found.critical_step])
    if value == 0:
        assert found.status == "no decrease" and np.all(fields == 0)
    else:
        assert found.status == "not finite" and np.all(np.isnan(fields))
    assert found.steps.tolist() == [0] and found.losses.tolist() == [3]


def test_a_loss_that_is_nowhere_else_finite():
    found = along_a_line(lambda s: jnp.where(s == 0, 1.0, jnp.nan) + s, initial_step=1.0)
    assert found.status == "not finite" and np.isnan(found.best_step)


@pytest.mark.parametrize("budget", (1, 2, 5, 9, 14, 20, 28))
@pytest.mark.parametrize("initial_step", (None, 1e-9, 1e9))
def test_the_budget_is_kept(budget, initial_step):
    params, direction = bowl()
    calls = {"args": (1.0, 2.0), "initial_step": initial_step, "max_evaluations": budget}
    found = sharpjax.search_along(bowl_loss, params, direction, ONE, **calls)
    assert found.status == "budget" or len(found.steps) < budget
    assert len(found.steps) <= budget
    assert found.best_decrease == found.losses[0] - found.losses[found.steps == found.best_step]
    assert np.isnan(found.critical_step) or found.critical_step == pytest.approx(4, rel=1e-3)


def test_an_overflowing_loss_counts_as_above_the_start():
    def loss(params, batch):
        return jnp.exp(params[0] * 50) - 2 * params[0]  # Overflows from a step of 1.8 on.

    found = sharpjax.search_along(loss, jnp.full(1, -1.0), jnp.ones(1), ONE, initial_step=100.0)
    np.testing.assert_allclose(-1 + found.best_step, np.log(2 / 50) / 50, atol=1e-2)


def test_a_loss_without_derivatives_is_searched_from_its_values():
    def square(x):
        return jax.pure_callback(np.square, jax.ShapeDtypeStruct((), x.dtype), x)

    found = along_a_line(square, start=-1.0)
    np.testing.assert_allclose(found.best_step, 1, rtol=1e-2)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, sharpjax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from sharpjax.magnitudes import magnitude_histogram, top_overlap, top_share

def loss(p, batch):
    return jnp.mean(batch) * (jnp.sum(p["w"]**2) + jnp.sum(p["b"]**2))

w = np.arange(1, 17, dtype=np.float32).reshape(4, 4)
whole = {"w": w, "b": np.ones(8, np.float32)}, np.ones((3, 8), np.float32)
for kind in (AxisType.Explicit, AxisType.Auto):
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(kind,) * 2)
    put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
    x = {"w": put(w, "fsdp", None), "b": put(whole[0]["b"], ("data", "fsdp"))}
    split = x, put(whole[1], None, ("data", "fsdp"))
    found = []
    for x, batches in (whole, split):
        down = jax.tree.map(lambda v: -v, x)
        signs = jax.tree.map(jnp.sign, down)
        search = sharpjax.search_along(loss, x, down, batches)
        found.append([
            sharpjax.loss_along(loss, x, down, [0.0, 3.0], batches),
            search.best_step, search.critical_step,
            sharpjax.loss_plane(loss, x, down, signs, batches, points=2).losses,
            magnitude_histogram(x, [1.0, 5.0]), top_share(x, 0.2),
            top_overlap({"a": x, "s": signs}, 0.2),
        ])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
print("passed")
"""


def test_sharded_arrays_give_the_same():
    assert on_eight_devices(SHARDED) == "passed"


def test_a_result_is_a_pytree():
    found = along_a_line(lambda s: (s - 1) ** 2)
    copy = jax.tree.map(lambda x: x, found)
    assert copy.status == found.status and len(jax.tree.leaves(found)) == 5


def test_bad_input_names_the_argument_and_the_value():
    loss = quadratic(np.eye(3, dtype=np.float32), np.ones(3, np.float32))
    params, direction = bowl()
    with pytest.raises(ValueError, match=r"steps must have one axis, got shape \(\)"):
        sharpjax.loss_along(loss, params, direction, 1.0, ONE)
    with pytest.raises(ValueError, match="points must be at least 3, got 2"):
        sharpjax.search_along(loss, params, direction, ONE, points=2)
    with pytest.raises(ValueError, match="max_evaluations must be at least 1, got 0"):
        sharpjax.search_along(loss, params, direction, ONE, max_evaluations=0)
    for step in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="initial_step must be positive and finite, got"):
            sharpjax.search_along(loss, params, direction, ONE, initial_step=step)
    with pytest.raises(ValueError, match="the loss at params must be finite, got nan"):
        sharpjax.search_along(lambda p, b: jnp.nan * p["a"][0], params, direction, ONE)
    with pytest.raises(ValueError, match=r"direction has no leaf \['a'\]"):
        sharpjax.loss_along(loss, params, {"b": params["b"]}, [1.0], ONE)
    with pytest.raises(ValueError, match="batches must hold at least one array"):
        sharpjax.loss_along(loss, params, direction, [1.0], ())
    with pytest.raises(TypeError, match="loss_fn must return a real scalar"):
        sharpjax.loss_along(lambda p, b: p["b"], params, direction, [1.0], ONE)
