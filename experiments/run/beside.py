"""What the paper did not look at, at one point of SGD's trajectory in translation.

More optimizers, and the study's own where half of the text is padding that counts like text. Each
is a small study in a folder of the study's, from its start and, as far as may be, by its programs.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from experiments.algorithms import BESIDE
from experiments.data import tokenization
from experiments.data.tasks import Task, about_padding
from experiments.rows import Landscape, Sharpness
from experiments.run import sharpness

if TYPE_CHECKING:
    from experiments.run.study import Study

FOLDER, OPTIMIZERS, PADDED = "beside", "optimizers", "padded"


def run(study: "Study", task: Task, start: Any) -> None:
    """Measures both where the trajectory is first measured; what is recorded is not done again."""
    point = {"measured_epochs": (min(task.config.measured_epochs),), "measured_batches": 1}
    point |= {"precision_check": "none", "replicates": 1}
    config = dataclasses.replace(task.config, **point)
    more = dataclasses.replace(config, algorithms=("sgd", *BESIDE))
    made = [(OPTIMIZERS, dataclasses.replace(task, config=more), (Sharpness, Landscape))]
    if config.translation.padding == "masked":
        made.append((PADDED, padded(dataclasses.replace(task, config=config)), (Sharpness,)))
    for name, small, tables in made:
        with study.within(f"{FOLDER}/{name}", small) as inner:
            sharpness.run(inner, small, "sgd", start, only=tables)


def padded(task: Task) -> Task:
    """The same translations at twice their length, whose padding is attended and counted."""
    about = task.config.translation
    length = 2 * max(about.length, about.target_length)
    about = dataclasses.replace(about, padding="counted", padded_length=length)
    pad = task.tokenizer.pad_token_id
    examples, test = (
        tokenization.pad_translation(rows, about.padding, length, pad)
        for rows in (task.examples, task.test)
    )
    return dataclasses.replace(
        task,
        config=dataclasses.replace(task.config, translation=about),
        examples=examples,
        test=test,
        about=task.about | about_padding(about, task.examples, examples),
    )
