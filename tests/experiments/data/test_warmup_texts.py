"""The warm-up's texts: of corpora of their own, and none of them the study's."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.data import tasks
from experiments.data.corpora import DataError, load_corpus, load_others
from tests.experiments import tiny


def write_pairs(path, pairs):
    rows = ({"translation": {"en": en, "fr": fr}} for en, fr in pairs)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


BOOKS = [(f"A long sentence, number {i}.", f"Une longue phrase, numéro {i}.") for i in range(96)]


def test_rows_of_the_study_short_ones_and_repeated_ones_are_left_out(tmp_path):
    books = write_pairs(tmp_path / "books.jsonl", BOOKS[:4])
    more = [("Go.", "Va !"), BOOKS[3], (BOOKS[0][0], "Autrement."), ("Otherwise.", BOOKS[1][1])]
    more += [("Some other words.", "D'autres mots.")] * 2
    more = write_pairs(tmp_path / "more.jsonl", more)
    study = load_corpus(books, "translation").take([1, 0])
    left = load_others([books, more], "translation", study, shortest=4)
    rows = [*zip(*left.columns, strict=True)]
    assert rows == [*BOOKS[2:4], ("Some other words.", "D'autres mots.")]
    assert left.name.endswith("books.jsonl + " + left.name.rpartition(" + ")[2])
    with pytest.raises(DataError, match="no row has 99 characters and is not the study's"):
        load_others([books], "translation", study, shortest=99)
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        load_others([str(tmp_path / "nowhere.jsonl")], "translation", study)


@pytest.fixture
def config(tmp_path):
    books = write_pairs(tmp_path / "books.jsonl", BOOKS)
    other = write_pairs(
        tmp_path / "other.jsonl", [(f"Quixotic {i}.", f"Zèbre {i}.") for i in range(40)]
    )
    base = tiny.config(warmup_examples=None)
    about = dataclasses.replace(
        base.translation, corpus=books, shuffle=True, warmup_corpus=(books, other)
    )
    return dataclasses.replace(base, translation=about)


def texts(config, seed=0):
    return tasks.load_texts("translation", config, "translation")


def test_a_shuffled_study_and_its_warm_up_share_no_text_and_are_the_same_again(config):
    study, warmup = texts(config)
    assert len(study) == 64 and len(warmup) == 32 + 40
    assert not {*study.columns[0]} & {*warmup.columns[0]}
    assert study.columns[0] != tuple(en for en, _ in BOOKS[:64])  # Shuffled,
    assert {*study.columns[0]} <= {en for en, _ in BOOKS}
    again = texts(config)  # for all runs alike.
    assert (study.checksum, warmup.checksum) == (again[0].checksum, again[1].checksum)
    fewer = texts(dataclasses.replace(config, warmup_examples=20))[1]
    assert fewer.columns[0] == warmup.columns[0][:20]


def test_the_tokenizer_knows_the_words_of_both(config):
    task = tasks.make_task("translation", config, 0)
    assert "▁Quixotic" in task.tokenizer.get_vocab()
    assert len(task.warmup_rows["labels"]) == 72 == task.about["warmup_rows"]
    assert "the study's and the warm-up's" in task.about["tokenizer"]
    assert len(task.about["warmup_checksum"]) == 64
    first = next(task.warmup_batches(0))
    assert first["input_ids"].shape == (1, 8, 16) and "attention_mask" in first
    alone = dataclasses.replace(config.translation, warmup_corpus=())
    alone = tasks.make_task("translation", dataclasses.replace(config, translation=alone), 0)
    assert "▁Quixotic" not in alone.tokenizer.get_vocab()
    assert alone.about["warmup_rows"] == 32  # None: all that are behind the study's.


def test_the_warm_ups_padding_is_masked_whatever_the_studys_is(config):
    about = dataclasses.replace(config.translation, padding="counted", padded_length=20)
    task = tasks.make_task("translation", dataclasses.replace(config, translation=about), 0)
    first = next(task.warmup_batches(0))
    assert first["input_ids"].shape == (1, 8, 16) and np.any(first["labels"] == -100)


def test_too_few_rows_for_a_warm_up_are_said(config):
    for asked, fields in ((100, {"warmup_examples": 100}), (80, {"warmup_batch_size": 80})):
        said = f"{asked} rows were asked for beside the study's, but there are 72"
        with pytest.raises(DataError, match=said):
            texts(dataclasses.replace(config, **fields))
