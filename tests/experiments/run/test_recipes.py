"""The recipes of CONTRIBUTING, followed."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np

from experiments import records
from experiments.report import claims
from experiments.rows import Sharpness
from experiments.run import sharpness
from sharpjax import DirectionStats
from tests.experiments import tiny

AT = ("mlm", "sgd", 0, 1, 2)


class More(Sharpness):
    """A quantity: a column at the end, with what rows without it had."""

    critical: float = math.nan


class Found(DirectionStats):
    """The library's result, which has that quantity too."""

    @property
    def critical(self):
        return 2 * self.newton_step


def test_a_quantity_is_one_column(tmp_path, monkeypatch):
    numbers = dict.fromkeys(DirectionStats.__dataclass_fields__, np.float32(-0.5))
    stats = {"sgd": Found(**numbers | {"sharpness": np.float32(2.0)})}
    gradient = {"w": np.arange(40.0, dtype=np.float32)}
    step = SimpleNamespace(grads=gradient, updates={"sgd": gradient})
    here = SimpleNamespace(step=step, config=tiny.config(), key=AT, stats=stats)
    before = sharpness._sharpness_rows(here)
    monkeypatch.setattr(sharpness, "Sharpness", More)
    (row,) = sharpness._sharpness_rows(here)
    assert row.critical == -1.0 and row.sharpness == 2.0 and row.ratio == 1.0
    assert {type(value) for value in list(vars(row).values())[6:]} == {float}
    records.append(tmp_path, before)
    (old,) = records.read(tmp_path, More)
    assert math.isnan(old.critical) and (old.key, old.slope) == (row.key, row.slope)
    records.append(tmp_path, [row])  # Measured already: the record of a key stays.
    assert math.isnan(records.read(tmp_path, More)[0].critical)


def test_a_claim_that_is_not_of_the_tables_does_not_join_their_112():
    found = claims.evaluate([])
    more = dataclasses.replace(found[0], paper="said in §5")
    assert sum(claim.is_ordering for claim in [*found, more]) == 7
    assert found[0].quantity == more.quantity == "ratio"
