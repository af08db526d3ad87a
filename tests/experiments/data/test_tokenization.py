import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.data import embedded
from experiments.data.corpora import DataError
from experiments.data.tokenization import (
    PROMPT,
    encode_text,
    encode_translation,
    load_tokenizer,
    mask_tokens,
    train_tokenizer,
)

ROOT = Path(__file__).parents[3]
TOKENIZERS = ROOT.parent / "shared" / "data" / "tokenizers"
needs_pretrained = pytest.mark.skipif(
    not TOKENIZERS.is_dir(), reason="the pretrained tokenizers are not here"
)
ENGLISH, FRENCH = (list(side) for side in zip(*embedded.pairs(400), strict=True))


@pytest.fixture(scope="module")
def t5():
    return train_tokenizer(ENGLISH + FRENCH, 600, "t5")


@pytest.fixture(scope="module")
def roberta():
    return train_tokenizer(embedded.paragraphs(200), 600, "roberta")


def test_trained_tokenizers_have_the_familys_special_tokens(t5, roberta):
    assert len(t5) == len(roberta) == 600
    assert (t5.pad_token_id, t5.eos_token_id, t5.unk_token_id) == (0, 1, 2)
    assert roberta.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]) == [*range(5)]
    assert (roberta.bos_token_id, roberta.pad_token_id, roberta.eos_token_id) == (0, 1, 2)
    assert (roberta.unk_token_id, roberta.mask_token_id) == (3, 4)
    assert t5(ENGLISH[0])["input_ids"][-1] == 1
    ids = roberta(ENGLISH[0])["input_ids"]
    assert (ids[0], ids[-1]) == (0, 2)


def test_trained_tokenizers_give_the_text_back(t5, roberta):
    for text in ENGLISH[:50] + FRENCH[:50]:
        assert t5.decode(t5(text)["input_ids"], skip_special_tokens=True) == text
    for text in [*FRENCH[:50], "snow 雪, ☃ and\n tabs\t"]:
        assert roberta.decode(roberta(text)["input_ids"], skip_special_tokens=True) == text
    assert t5.convert_ids_to_tokens(t5(PROMPT)["input_ids"])[:2] == ["▁translate", "▁English"]
    assert t5.unk_token_id in t5("雪")["input_ids"]


def test_training_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="style must be"):
        train_tokenizer(["a"], 600, "bert")
    for style in ("t5", "roberta"):
        with pytest.raises(ValueError, match=r"need a vocabulary of .* or more, got 20"):
            train_tokenizer(["a"], 20, style)


def test_training_is_deterministic_across_processes_and_hash_seeds():
    code = """
import hashlib
from experiments.data import embedded, tokenization
texts = [text for pair in embedded.pairs(1500) for text in pair]
for style in ("t5", "roberta"):
    tokenizer = tokenization.train_tokenizer(texts, 1500, style)
    print(hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest())
    print(tokenization.encode_text(tokenizer, texts[:100], 32)["input_ids"].sum())
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, threads in (("0", "true"), ("77", "false"))
    ]
    assert len(runs[0].split()) == 4
    assert runs[0] == runs[1]


def test_encode_text_cuts_pads_and_keeps_the_special_tokens(roberta):
    texts = [ENGLISH[0], "A", ENGLISH[1] * 20]
    encoded = encode_text(roberta, texts, 16)
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    assert ids.dtype == mask.dtype == np.int32
    assert ids.shape == mask.shape == (3, 16)
    for text, row, present in zip(texts, ids, mask, strict=True):
        whole = roberta(text)["input_ids"]
        expected = whole if len(whole) <= 16 else [*whole[:15], whole[-1]]
        assert row[: len(expected)].tolist() == expected
        assert present.tolist() == [1] * len(expected) + [0] * (16 - len(expected))
        assert (row[len(expected) :] == roberta.pad_token_id).all()
    with pytest.raises(ValueError, match="a length of 2 leaves no room"):
        encode_text(roberta, texts, 2)


def test_encode_translation(t5):
    encoded = encode_translation(t5, ENGLISH[:9], FRENCH[:9], 32, 12)
    assert {key: (value.shape, value.dtype) for key, value in encoded.items()} == {
        "input_ids": ((9, 32), np.int32),
        "attention_mask": ((9, 32), np.int32),
        "labels": ((9, 12), np.int32),
    }
    for row in range(9):
        source = t5(PROMPT + ENGLISH[row])["input_ids"]
        target = t5(FRENCH[row])["input_ids"]
        found = encoded["input_ids"][row][encoded["attention_mask"][row] == 1].tolist()
        assert found == (source if len(source) <= 32 else [*source[:31], 1])
        counted = encoded["labels"][row][encoded["labels"][row] != -100].tolist()
        assert counted == (target if len(target) <= 12 else [*target[:11], 1])
    short = encode_translation(t5, ["A"], ["B"], 20, 9)["labels"][0]
    length = len(t5("B")["input_ids"])
    assert (short[length:] == -100).all()
    assert (short[:length] != -100).all()


def test_encode_translation_refuses_bad_arguments(t5):
    with pytest.raises(ValueError, match="2 English texts, but 1 French"):
        encode_translation(t5, ["a", "b"], ["c"], 32, 32)
    with pytest.raises(ValueError, match="a source length of 4 is spent on the prompt"):
        encode_translation(t5, ["a"], ["b"], 4, 32)


def masked(tokenizer, rows, length, seed, probability=0.15):
    """Random ordinary tokens between <s> and </s>, padded: the row and what masking makes of it."""
    rng = np.random.default_rng(99)
    ids = rng.integers(5, len(tokenizer), (rows, length), np.int32)
    lengths = rng.integers(length // 2, length + 1, rows)
    position = np.arange(length)
    ids[:, 0] = tokenizer.bos_token_id
    ids[np.arange(rows), lengths - 1] = tokenizer.eos_token_id
    attention_mask = (position < lengths[:, None]).astype(np.int32)
    ids[attention_mask == 0] = tokenizer.pad_token_id
    rng = np.random.default_rng(seed)
    return ids, attention_mask, mask_tokens(ids, attention_mask, tokenizer, rng, probability)


def rates(ids, eligible, inputs, labels, mask_id):
    """Chosen among eligible; then, among the chosen: masked, changed to another token, kept."""
    chosen = labels != -100
    now, before = inputs[chosen], ids[chosen]
    changed = (now != mask_id) & (now != before)
    shares = [(now == mask_id).mean(), changed.mean(), (now == before).mean()]
    return chosen.sum() / eligible.sum(), *shares


def test_masking_follows_the_80_10_10_rule_and_leaves_special_tokens_alone(roberta):
    ids, attention_mask, out = masked(roberta, 2000, 128, seed=3)
    assert all(value.dtype == np.int32 and value.shape == ids.shape for value in out.values())
    chosen = out["labels"] != -100
    eligible = (attention_mask == 1) & (ids >= 5)
    assert not (chosen & ~eligible).any()
    assert (out["labels"][chosen] == ids[chosen]).all()
    assert (out["input_ids"][~chosen] == ids[~chosen]).all()
    assert (out["attention_mask"] == attention_mask).all()
    assert chosen.any(axis=1).all()
    # Four standard deviations, as shares of about 190,000 eligible and 28,000 chosen tokens.
    found = rates(ids, eligible, out["input_ids"], out["labels"], roberta.mask_token_id)
    for share, expected, count in zip(
        found, (0.15, 0.8, 0.1, 0.1), (19e4, *[28e3] * 3), strict=True
    ):
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / count) + 5e-4

    random = out["input_ids"][chosen & (out["input_ids"] != roberta.mask_token_id)]
    random = random[random != ids[chosen & (out["input_ids"] != roberta.mask_token_id)]]
    counts = np.bincount(random, minlength=len(roberta))
    assert counts[[0, 1, 2, 3]].sum() > 0  # The collator too draws from the whole vocabulary.
    others = np.delete(counts, roberta.mask_token_id)
    chi_squared = ((others - others.mean()) ** 2 / others.mean()).sum()
    degrees = len(others) - 1
    assert abs(chi_squared - degrees) < 4 * np.sqrt(2 * degrees)


def test_masking_has_the_rates_of_the_reference_collator(roberta):
    from transformers import DataCollatorForLanguageModeling

    ids, attention_mask, out = masked(roberta, 1000, 128, seed=4)
    eligible = (attention_mask == 1) & (ids >= 5)
    collator = DataCollatorForLanguageModeling(roberta, mlm_probability=0.15, seed=0)
    reference = collator([{"input_ids": row.tolist()} for row in ids])
    inputs, labels = (reference[key].numpy() for key in ("input_ids", "labels"))
    ours = rates(ids, eligible, out["input_ids"], out["labels"], roberta.mask_token_id)
    theirs = rates(ids, eligible, inputs, labels, roberta.mask_token_id)
    assert not ((labels != -100) & ~eligible).any()
    np.testing.assert_allclose(ours, theirs, atol=0.012)


def test_every_row_has_a_counted_token_chosen_uniformly(roberta):
    ids = np.tile(np.array([0, 10, 11, 12, 13, 2, 1], np.int32), (8000, 1))
    mask = (ids != 1).astype(np.int32)
    out = mask_tokens(ids, mask, roberta, np.random.default_rng(0), probability=0.0)
    chosen = out["labels"] != -100
    assert (chosen.sum(axis=1) == 1).all()
    counts = chosen.sum(axis=0)
    assert counts[[0, 5, 6]].sum() == 0
    assert (np.abs(counts[1:5] - 2000) < 4 * np.sqrt(8000 * 0.25 * 0.75)).all()
    everything = mask_tokens(ids, mask, roberta, np.random.default_rng(0), probability=1.0)
    assert ((everything["labels"] != -100).sum(axis=1) == 4).all()


def test_masks_are_a_function_of_the_generator(roberta):
    ids, attention_mask, first = masked(roberta, 50, 32, seed=5)
    kept = ids.copy()
    again, other = masked(roberta, 50, 32, seed=5)[2], masked(roberta, 50, 32, seed=6)[2]
    assert all((first[key] == again[key]).all() for key in first)
    assert (first["labels"] != other["labels"]).any()
    assert (ids == kept).all()
    # Other ordinary tokens in the same places are masked in the same places.
    shifted = np.where(ids >= 5, (ids - 5 + 1) % 500 + 5, ids).astype(np.int32)
    out = mask_tokens(shifted, attention_mask, roberta, np.random.default_rng(5))
    assert ((out["labels"] != -100) == (first["labels"] != -100)).all()


def test_masking_refuses_what_it_cannot_do(roberta, t5):
    rng = np.random.default_rng(0)
    ids = np.array([[0, 10, 2], [0, 2, 1], [0, 3, 2]], np.int32)
    with pytest.raises(DataError, match=r"row 1: no token to mask \(2 of 3 rows\)"):
        mask_tokens(ids, ids != 1, roberta, rng)
    with pytest.raises(ValueError, match="no mask token"):
        mask_tokens(ids, ids != 1, t5, rng)
    with pytest.raises(ValueError, match="probability must lie in"):
        mask_tokens(ids[:1], ids[:1] != 1, roberta, rng, probability=1.5)


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(DataError, match="no tokenizer could be loaded") as error:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("style", ["t5", "roberta"])
def test_a_saved_tokenizer_loads_again(style, tmp_path, request):
    tokenizer = request.getfixturevalue(style)
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert again(FRENCH[:20])["input_ids"] == tokenizer(FRENCH[:20])["input_ids"]
    assert again.all_special_ids == tokenizer.all_special_ids


@needs_pretrained
def test_pretrained_tokenizers():
    t5 = load_tokenizer(str(TOKENIZERS / "t5-small"))
    encoded = encode_translation(t5, ["The house is wonderful."], ["La maison."], 16, 8)
    expected = [13959, 1566, 12, 2379, 10, 37, 629, 19, 1627, 5, 1, 0, 0, 0, 0, 0]
    assert encoded["input_ids"][0].tolist() == expected
    roberta = load_tokenizer(str(TOKENIZERS / "distilroberta-base"))
    text = encode_text(roberta, ["Hello world!", "Hello " * 50], 8)
    assert text["input_ids"][0].tolist() == [0, 31414, 232, 328, 2, 1, 1, 1]
    assert text["input_ids"][1, [0, -1]].tolist() == [0, 2]
    out = mask_tokens(text["input_ids"], text["attention_mask"], roberta, np.random.default_rng(0))
    assert out["labels"].max() < len(roberta) == 50_265
