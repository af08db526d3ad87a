"""Checkpoints that cannot be written or read: one line, and then on with nothing lost."""

import functools
import gc
import itertools
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.errors import DamagedError
from experiments.run import training
from experiments.run.progress import Watch

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    # TensorStore's futures outlive Orbax's loop where a save or a restore fails.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SIZE = 60_000  # Parameters: random, so that a checkpoint of them is as large as they are.
STEPS = 6


@pytest.fixture(autouse=True)
def collected():
    """What a failure leaves behind goes with its test, under the filters above."""
    yield
    gc.collect()


def loss(params, micro_batch, key=None):
    return jnp.mean((params["w"] - micro_batch["x"]) ** 2)


def batches(done):
    for step in itertools.count(done):
        draw = np.random.default_rng(step)
        yield {"x": draw.normal(size=(1, 4, SIZE)).astype(np.float32)}


@functools.cache
def optimizer():
    return optax.adam(0.1)


def train(directory, flushed=None):
    seen, flushed = [], [] if flushed is None else flushed
    start = np.random.default_rng(99).normal(size=(1, SIZE)).astype(np.float32)
    return training.train(
        training.Training("toy", optimizer(), loss, batches, STEPS),
        {"w": start},
        Watch(),
        checkpoints=training.Checkpoints(directory, every=2),
        observe=lambda step: seen.append(step.number),
        flush=lambda: (flushed.extend(seen), seen.clear()),
    )["w"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The parameters of an uninterrupted run, and its last checkpoint's directory."""
    directory = tmp_path_factory.mktemp("whole") / "checkpoints"
    return train(directory), directory


def one_line(error):
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    return str(error.value)


def test_a_disk_that_fills_during_a_checkpoint(whole, tmp_path, monkeypatch):
    """The fourth step's checkpoint meets a full disk: here, a limit on the size of files."""
    directory = tmp_path / "checkpoints"
    own = training._told
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(place, step, words):
        if step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        return own(place, step, words)

    flushed = []
    with monkeypatch.context() as patch:
        patch.setattr(training, "_told", full)
        patch.setattr(training, "_BETWEEN_SAVES", 0)
        try:
            with pytest.raises(DamagedError) as error:
                train(directory, flushed)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = one_line(error)
    assert f"the checkpoint {directory / '4'} could not be written (" in said
    assert "File too large" in said and "the same command continues" in said
    assert flushed == [1, 2, 3, 4]  # What was measured had been recorded before.
    assert training.latest_step(directory) == 2
    flushed = []
    np.testing.assert_array_equal(train(directory, flushed), whole[0])
    assert flushed == [3, 4, 5, 6]


@pytest.mark.parametrize(("between", "saved"), [(0, [2, 4, 6]), (10**6, [2, 6])])
def test_checkpoints_take_a_share_of_the_time(between, saved, whole, tmp_path, monkeypatch):
    """Far apart where training is quick; the last step has one all the same."""
    flushed, at = [], []
    own = training._told
    monkeypatch.setattr(training, "_told", lambda *words: at.append(words[1]) or own(*words))
    monkeypatch.setattr(training, "_BETWEEN_SAVES", between)
    np.testing.assert_array_equal(train(tmp_path / "checkpoints", flushed), whole[0])
    assert at == saved and flushed == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("cut", ["emptied", "half", "gone"])
def test_a_damaged_checkpoint(cut, whole, tmp_path):
    """Whichever of its files is damaged, either nothing is wrong or one line says what."""
    directory = tmp_path / "checkpoints"
    shutil.copytree(whole[1], directory)
    last = directory / str(training.latest_step(directory))
    assert last.name == str(STEPS)
    files = [path for path in last.rglob("*") if path.is_file()]
    refused = 0
    for path in files:
        content = path.read_bytes()
        if cut == "gone":
            path.unlink()
        else:
            path.write_bytes(b"" if cut == "emptied" else content[: len(content) // 2])
        try:
            np.testing.assert_array_equal(train(directory), whole[0])
        except DamagedError as error:
            refused += 1
            assert f"the checkpoint {last} cannot be read (" in str(error)
            assert "put a whole copy of it back, or delete it" in str(error)
            assert "\n" not in str(error)
        path.write_bytes(content)
    assert refused >= 3
    np.testing.assert_array_equal(train(directory), whole[0])  # It is whole again.
    for path in files:
        path.write_bytes(b"")
    with pytest.raises(DamagedError, match="cannot be read"):
        train(directory)
    shutil.rmtree(last)
    np.testing.assert_array_equal(train(directory), whole[0])  # As it said: made anew.


def test_no_checkpoint_is_step_0(tmp_path):
    assert training.latest_step(tmp_path / "none") == 0
    (tmp_path / "4.orbax-checkpoint-tmp").mkdir()
    assert training.latest_step(tmp_path) == 0
    assert jax.process_count() == 1
