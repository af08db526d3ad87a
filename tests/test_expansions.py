"""Many directions: in one program inside `jit`, by the same few programs for all outside."""

import functools
import gc
import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpjax
from sharpjax import _expansions
from sharpjax._expansions import _Along
from sharpjax._programs import without_constants
from tests.devices import on_eight_devices

X, U = jnp.array([0.3, -0.5, 0.2]), jnp.array([1.0, 2.0, -0.5])
BATCHES = jax.random.normal(jax.random.key(0), (2, 4, 3))


def loss(x, batch):
    return jnp.mean(jnp.tanh(batch @ x) ** 2)


@pytest.mark.parametrize("method, chunk", (("adjoint", 2), ("forward", None), ("reverse", 3)))
def test_the_same_inside_of_jit_at_any_length(method, chunk):
    scales = {"one": 1.0, "tiny": 1e-30, "huge": 1e30, "zero": 0.0, "nan": jnp.nan}
    updates = {name: scale * U for name, scale in scales.items()}

    def measure(updates):
        return sharpjax.measure_directions(loss, X, updates, BATCHES, method=method, chunk=chunk)

    outside = measure(updates)
    # Inside of `jit` constants are traced as well.
    inside = jax.jit(measure)(updates) if chunk else jax.jit(lambda: measure(updates))()
    assert [*outside] == [*updates]
    chex.assert_trees_all_close(outside, {name: inside[name] for name in updates}, rtol=1e-5)
    for name in ("tiny", "huge"):
        np.testing.assert_allclose(outside[name].slope, outside["one"].slope, rtol=1e-5)
        np.testing.assert_allclose(outside[name].sharpness, outside["one"].sharpness, rtol=1e-5)
    assert outside["zero"].slope == 0 and np.isnan(outside["zero"].sharpness)
    assert np.isnan(outside["nan"].slope) and np.isfinite(outside["nan"].loss)


@pytest.mark.parametrize("method", ("adjoint", "forward", "reverse"))
def test_in_turn_by_one_call_is_a_call_each(method, monkeypatch):
    scales = {"one": 1.0, "tiny": 1e-30, "huge": 1e30, "zero": 0.0}
    updates = {name: np.asarray(scale * U) for name, scale in scales.items()}
    measure = functools.partial(
        sharpjax.measure_directions, loss, X, updates, BATCHES, method=method
    )
    together = measure()
    monkeypatch.setattr(_expansions, "_LOOPED_BYTES", 0)
    chex.assert_trees_all_close(together, measure(), rtol=1e-6)


def test_a_directions_program_does_not_hold_its_constants():
    matrix = jnp.ones((3, 3))
    closed = jax.make_jaxpr(lambda v, m=matrix: [jnp.sum(jnp.tanh(m @ v))])(X)
    along, held = _Along(without_constants(closed), (None,)), weakref.ref(matrix)
    expected = jnp.sum(jnp.tanh(2 * matrix @ U))
    del matrix, closed
    gc.collect()
    assert held() is None
    (found,) = along([jnp.full((3, 3), 2.0)], [], U)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_another_number_of_directions_traces_nothing():
    traces, seen = [], []

    def counted(x, batch):
        traces.append(None)
        return loss(x, batch)

    for count in (1, 3):
        updates = {str(i): (i + 1) * U for i in range(count)}
        sharpjax.measure_directions(counted, X, updates, BATCHES)
        seen.append(len(traces))
    assert seen[0] == seen[1] > 0


@pytest.mark.parametrize("method", ("adjoint", "reverse"))
def test_a_loss_in_float16_sees_unit_directions(method):
    """A derivative along 1e5·u leaves float16's range, though float32 would hold it."""
    narrow = lambda x, batch: jnp.sum(jnp.sin(x.astype(jnp.float16)))  # noqa: E731
    updates = {"one": U, "long": 1e5 * U}
    stats = sharpjax.measure_directions(narrow, X, updates, BATCHES, method=method)
    np.testing.assert_allclose(stats["long"].sharpness, stats["one"].sharpness, rtol=1e-2)


def matrix_loss(params, batch):
    return jnp.mean(jnp.tanh(batch @ params["w"]) ** 2 @ params["v"])


def test_programs_are_compiled_for_arrays_that_are_not_there():
    n, examples = 64, 512
    params = {"w": jax.ShapeDtypeStruct((n, n), jnp.float32), "v": jnp.ones(n)}
    batches = jax.ShapeDtypeStruct((3, examples, n), jnp.float32)
    compile_directions = functools.partial(
        sharpjax.directions.compile_directions, matrix_loss, params, batches
    )
    flops = lambda program: program.cost_analysis()["flops"]  # noqa: E731
    product = 2 * n * n * examples
    # Of a layer whose input is data: forward one product, and one along a direction, twice by
    # "reverse", which has a backward pass along it too; shared by all is the pass of the loss, and
    # by "reverse" its gradient.
    for method, shared, each in (("adjoint", 1, 1), ("reverse", 2, 2)):
        programs = compile_directions(method=method)
        assert flops(programs.shared) == pytest.approx(shared * product, rel=0.3)
        assert flops(programs.along) == pytest.approx(each * product, rel=0.3)
        assert programs.total(flops, 7) == flops(programs.shared) + 7 * flops(programs.along)
        # The hidden layer at least is kept, and hardly more than twenty of its size are ever held.
        hidden = 4 * examples * n
        assert hidden < programs.temporary_bytes < 20 * hidden
    two = compile_directions(method=method, chunk=2)
    assert flops(two.along) == pytest.approx(2 * flops(programs.along), rel=0.1)
    assert two.temporary_bytes > programs.temporary_bytes


def test_what_was_compiled_ahead_is_what_runs(caplog):
    own = lambda x, batch: loss(x, batch)  # noqa: E731
    sharpjax.directions.compile_directions(own, X, BATCHES)
    with jax.log_compiles():
        sharpjax.measure_directions(own, X, {"u": U}, BATCHES)
    said = " ".join(x.getMessage().split(" with ")[0] for x in caplog.records)
    assert "_square" in said and "_shared" not in said and "_along" not in said


COMPILED_AHEAD = """
import functools, jax, jax.numpy as jnp, numpy as np, sharpjax
from tests.test_expansions import matrix_loss
from jax.sharding import NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
split, whole = NamedSharding(mesh, P(None, "data")), NamedSharding(mesh, P())
abstract = lambda *shape, where: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)
params = {"w": abstract(64, 64, where=whole), "v": abstract(64, where=whole)}
batches = abstract(1, 512, 64, where=split)
many = sharpjax.directions.compile_directions(matrix_loss, params, batches, method="adjoint")
one = sharpjax.directions.compile_directions(matrix_loss, *jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, batches)), method="adjoint")
flops = lambda program: program.cost_analysis()["flops"]
for i in (0, 1):
    assert flops(many[i]) < flops(one[i]) / 6
assert many.temporary_bytes < one.temporary_bytes / 3
assert "all-reduce" in many.along.as_text() and "all-reduce" not in one.along.as_text()
print("agree")
"""


def test_programs_are_compiled_for_a_mesh_that_is_not_there():
    assert on_eight_devices(COMPILED_AHEAD) == "agree"
