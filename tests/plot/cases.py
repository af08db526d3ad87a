"""Results as the library returns them, of made-up optimizers on quadratic losses."""

import dataclasses
import math

import numpy as np
import pandas

from sharpjax import BlockSharpness, GaussNewton, SharpnessByRank, SpanModel
from sharpjax.spectrum import Spectrum

PAPER = (
    *("sgd", "sgd_clip", "adam", "adafactor", "adafactor_clip"),
    *("normalized_sgd", "normalized_sgd_clip"),
)
OTHERS = (
    *("adabelief", "adadelta", "adagrad", "adam", "adamax", "adamw", "adan", "ademamix", "amsgrad"),
    *("fromage", "lamb", "lars", "lbfgs", "lion", "momo", "muon", "nadam", "nadamw", "novograd"),
    *("prodigy", "radam", "rmsprop", "rprop", "shampoo", "sign_sgd", "sm3", "soap", "sophia"),
    *("yogi", "galore", "schedule_free", "dowg", "dog", "cocob", "acprop", "mechanic"),
    *("polyak_sgd", "optimistic_adam", "simplified_ademamix", "noisy_sgd", "dpsgd"),
)
START = 3.0


def names(count):
    """So many optimizers: the paper's, then others, every fifth of them with a clipped form."""
    more = [
        n for i, name in enumerate(OTHERS) for n in (name, f"{name}_clip")[: 2 if i % 5 == 0 else 1]
    ]
    made = list(dict.fromkeys([*PAPER, *more]))
    assert len(made) >= count
    return made[:count]


@dataclasses.dataclass
class Tables:
    """What a plot function sees of a `Comparison` or a `Point`: its tables."""

    tables: dict

    def to_pandas(self, table="directions"):
        return self.tables[table]


def comparison(optimizers, steps=(10, 20, 30), trajectory="adam"):
    """Quadratics loss(t) = START + slope·t + sharpness·t²/2 along every direction."""
    directions, landscape, histogram, cosines = [], [], [], []
    for step in steps:
        at = {"step": step, "trajectory": trajectory}
        for i, name in enumerate(optimizers):
            sharpness, slope = sharpness_of(i) * (1 + 0.01 * step), -0.5 / (1 + 0.1 * i)
            newton, fall = -slope / sharpness, slope**2 / (2 * sharpness)
            directions.append(
                at
                | {"algorithm": name, "loss": START, "slope": slope, "slope_se": 0.01}
                | {"sharpness": sharpness, "sharpness_se": sharpness / 10, "update_norm": 0.3}
                | {"newton_step": newton, "predicted_decrease": fall}
                | {"ratio": sharpness / sharpness_of(0) if optimizers[0] == "sgd" else math.nan}
                | {"step_ratio": 0.3 / newton, "best_step": newton, "best_decrease": fall}
                | {"critical_step": 2 * newton, "top_share": 0.5, "threshold": 1e-3}
            )
            for t in np.linspace(0, 3, 13) * newton:
                loss = START + slope * t + sharpness * t**2 / 2
                landscape.append(at | {"algorithm": name, "distance": t, "loss": loss})
            for low, count in ((-5.0, 3 + i), (-4.75, 100), (-2.0, 7)):
                edges = {"quantity": "update", "lower": low, "upper": low + 0.25}
                histogram.append(at | {"algorithm": name} | edges | {"count": count})
            for j, other in enumerate(optimizers):
                cosine = math.exp(-abs(i - j) / 3)
                pair = {"cosine": cosine, "curvature": sharpness * cosine, "curvature_se": 0.1}
                overlap = 1 / (1 + abs(i - j))
                row = {"algorithm": name, "other": other, **pair, "overlap": overlap}
                cosines.append(at | row)
        edges = {"quantity": "gradient", "lower": -6.0, "upper": -5.75}
        histogram.append(at | {"algorithm": ""} | edges | {"count": 9})
    convergence = [
        {"step": step, "algorithm": name, "loss": 2 + math.exp(-0.1 * step * (1 + i))}
        for i, name in enumerate(optimizers)
        for step in range(1, 31)
    ]
    tables = {"directions": directions, "landscape": landscape, "histogram": histogram}
    tables |= {"cosines": cosines, "convergence": convergence}
    return Tables({name: pandas.DataFrame(rows) for name, rows in tables.items()})


def sharpness_of(i):
    return 10.0 * 0.7**i


def ranked(optimizers, fractions):
    """Shares √p of a sharpness of 1, of one twice as large for the next, and so on."""
    share = np.sqrt(fractions)
    return {
        name: SharpnessByRank(
            sharpness=(i + 1) * share, sharpness_se=0.1 * share, share=share, squared_norm=share**2
        )
        for i, name in enumerate(optimizers)
    }


def blocks(optimizers, labels):
    """Block i holds i + 1, each pair of neighbours crosses with −1."""
    size = len(labels)
    matrix = np.diag(np.arange(1.0, size + 1)) - np.eye(size, k=1) - np.eye(size, k=-1)
    one = BlockSharpness(labels, matrix, 0.1 * np.ones_like(matrix), np.full(size, 1 / size))
    return dict.fromkeys(optimizers, one)


def split(sharpness, gauss_newton):
    rest = sharpness - gauss_newton
    return GaussNewton(sharpness, 0.01, gauss_newton, 0.01, rest, 0.01)


def spectrum():
    values = np.array([[-0.1, 0.001, 0.02, 3.0], [-0.1, 0.002, 0.021, 3.001]])
    return Spectrum(values, np.full((2, 4), 0.25), np.full((2, 4), 1e-6), 1000)


def span(optimizers):
    """Orthogonal directions of curvature 1, 2, … and slope −1 each."""
    size = len(optimizers)
    curvature = np.diag(np.arange(1.0, size + 1))
    return SpanModel(
        names=tuple(optimizers),
        loss=np.float64(START),
        slopes=-np.ones(size),
        gram=np.eye(size),
        curvature=curvature,
        curvature_se=0.01 * np.eye(size),
        curvatures=np.stack([curvature * 0.99, curvature * 1.01]),
    )
