"""The paper's own numbers (OPT 2022 version): Tables 2 to 6 and Figure 2, and the names it uses."""

from collections.abc import Iterable

TASKS = {
    "translation": "Machine translation",
    "mlm": "Masked language modelling",
    "causal": "Causal language modelling",  # Ours: this version of the paper has no such task.
}
TRAJECTORIES = {"sgd": "SGD", "adam": "Adam"}
ALGORITHMS = {  # In the order of the paper's tables.
    "sgd": "SGD",
    "sgd_clip": "SGD, clipped",
    "adam": "Adam",
    "adafactor": "Adafactor",
    "adafactor_clip": "Adafactor, clipped",
    "normalized_sgd": "Normalized SGD",
    "normalized_sgd_clip": "Normalized SGD, clipped",
}
EPOCHS = (2, 5, 10, 20)
OTHERS = tuple(a for a in ALGORITHMS if a != "sgd")  # All ratios are to SGD.

# Where a (task, trajectory) column stands in the paper.
TABLE = {
    ("translation", "sgd"): 3,
    ("mlm", "sgd"): 4,
    ("translation", "adam"): 5,
    ("mlm", "adam"): 6,
}
FIGURE = {  # The landscapes. Figure 3 is one more of translation, of an epoch left unnamed.
    ("translation", "sgd"): 5,
    ("mlm", "sgd"): 6,
    ("translation", "adam"): 7,
    ("mlm", "adam"): 8,
}

# Figure 2: mean sharpness on machine translation, at Figure 3's epoch.
MEAN_SHARPNESS = {
    "sgd": 31.04433435,
    "sgd_clip": 1.77876506,
    "adam": 0.16190993,
    "adafactor": 3.1928e-06,
    "adafactor_clip": 2.5258e-06,
    "normalized_sgd": 0.77112307,
    "normalized_sgd_clip": 0.38075357,
}

# Table 2.
LEARNING_RATES = {
    "translation": {
        "sgd": "1e-3",
        "sgd_clip": "8e-1",
        "adam": "2e-3",
        "adafactor": "relative",
        "adafactor_clip": "relative",
        "normalized_sgd": "5e-4",
        "normalized_sgd_clip": "5e-4",
    },
    "mlm": {
        "sgd": "1e-2",
        "sgd_clip": "8e-1",
        "adam": "2e-3",
        "adafactor": "1e-2",
        "adafactor_clip": "1e-2",
        "normalized_sgd": "5e-5",
        "normalized_sgd_clip": "5e-5",
    },
}

# Tables 3 to 6, SGD's own ratio of 1 left out, the others in the order of ALGORITHMS.
# fmt: off
_RATIOS = {
    ("translation", "sgd"): {
        2: (0.43546787, 0.04595183, 1.6432e-05, 9.9343e-06, 0.20991666, 0.0688564),
        5: (0.02766145, 0.00250487, 6.0198e-07, 4.7015e-07, 0.01427107, 0.00610456),
        10: (0.06981113, 0.005461, 1.5864e-06, 1.221e-06, 0.0384915, 0.01631434),
        20: (0.11132615, 0.00914083, 2.4767e-06, 1.9563e-06, 0.0627923, 0.02604086),
    },
    ("mlm", "sgd"): {
        2: (0.1043136, 0.0335323, 0.00282802, 0.00196985, 0.28767978, 0.05043281),
        5: (0.1244984, 0.02682579, 0.0019193, 0.00123799, 0.26880846, 0.05914444),
        10: (0.11993282, 0.01577251, 0.00441034, 0.00278653, 0.30607491, 0.0579105),
        20: (0.09336649, 0.01320078, 0.00893414, 0.00542521, 0.28826713, 0.04681089),
    },
    ("translation", "adam"): {
        2: (0.01189776, 0.00014977, 6.2772e-07, 4.5537e-07, 0.00938728, 0.00334502),
        5: (0.00341957, 0.00014246, 4.4903e-08, 3.8484e-08, 0.00173206, 0.00085046),
        10: (0.01228746, 0.00064037, 3.4227e-06, 2.8321e-06, 0.00975973, 0.00412512),
        20: (0.01194036, 0.00034823, 4.0147e-07, 3.219e-07, 0.00983759, 0.00338311),
    },
    ("mlm", "adam"): {
        2: (0.05873187, 0.00206153, 0.00144918, 0.00088563, 0.25169848, 0.02890596),
        5: (0.02350328, 0.0014395, 0.00240724, 0.00141641, 0.21113349, 0.01096425),
        10: (0.02781447, 0.00266029, 0.00387052, 0.00222226, 0.2054631, 0.01329525),
        20: (0.07415355, 0.02341449, 0.02283569, 0.01298895, 0.2289349, 0.03024933),
    },
}
# fmt: on

# (task, trajectory, epoch) -> algorithm -> mean over 5 batches of sharpness/SGD's sharpness.
SHARPNESS_RATIO = {
    (*column, epoch): dict(zip(ALGORITHMS, (1.0, *ratios), strict=True))
    for column, epochs in _RATIOS.items()
    for epoch, ratios in epochs.items()
}


def seven(algorithms: Iterable[str]) -> str:
    """A sentence's word "seven ", if these are the paper's algorithms; else nothing."""
    return "seven " if {*algorithms} == ALGORITHMS.keys() else ""


def ordered(columns: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(task, trajectory) columns, each once, in the order of Tables 3 to 6, and others after."""
    present = set(columns)
    return [c for c in TABLE if c in present] + sorted(present - set(TABLE))


def column_name(column: tuple[str, str]) -> str:
    task, trajectory = column
    said = TRAJECTORIES.get(trajectory, trajectory.replace("_", " ").capitalize())
    return f"{TASKS.get(task, task)}, {said} trajectory"
