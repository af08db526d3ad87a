"""Text to integer arrays: tokenizers, the encoders of both tasks, and masks."""

import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import tokenizers
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from experiments.config import Padding
from experiments.data.corpora import DataError

# Threads encode a batch; said aloud, so that a fork (of a data loader, say) prints no warning.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

PROMPT = "translate English to French: "
NOT_COUNTED = -100


def load_tokenizer(path_or_hub_id: str) -> PreTrainedTokenizerBase:
    """The pretrained tokenizer of a local folder or a Hugging Face hub id.

    Raises:
      DataError: it can neither be found nor downloaded, or has no padding or end token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path_or_hub_id)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{path_or_hub_id}: no tokenizer could be loaded ({reason})") from error
    if tokenizer.pad_token_id is None:  # GPT-2's; the attention mask says what is padding.
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise DataError(f"{path_or_hub_id}: the tokenizer has no padding or no end-of-text token")
    return tokenizer


def train_tokenizer(
    texts: Sequence[str], vocab_size: int, style: Literal["t5", "roberta"]
) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer trained on `texts`, with the special tokens of a model family.

    "t5": `<pad>` 0, `</s>` 1, `<unk>` 2; words with a leading "▁"; a text ends in `</s>`. The
    translation prompt is counted once for every two texts, so that its words become tokens.
    "roberta": `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, `<mask>` 4; byte level, so that nothing is
    unknown; a text is `<s> … </s>`. The same texts give the same tokenizer, bit for bit.

    `vocab_size` counts the special tokens. `len(tokenizer)` is smaller where the texts offer no
    more merges.

    Raises:
      ValueError: an unknown style, or a `vocab_size` too small for the special tokens and the
        characters of the texts.
    """
    if style == "t5":
        special, template = ["<pad>", "</s>", "<unk>"], "$A </s>"
        names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        alphabet = [chr(code) for code in range(33, 127)] + ["▁"]
        texts = [*texts, *[PROMPT] * (len(texts) // 2)]
        core = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
        core.normalizer = normalizers.NFKC()
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
        )
        core.decoder = decoders.Metaspace()
    elif style == "roberta":
        special, template = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "<s> $A </s>"
        names = {
            "bos_token": "<s>",
            "cls_token": "<s>",
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "sep_token": "</s>",
            "unk_token": "<unk>",
            "mask_token": AddedToken("<mask>", lstrip=True, special=True),
        }
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        core = tokenizers.Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
    else:
        raise ValueError(f"style must be 't5' or 'roberta', got {style!r}")
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    if core.get_vocab_size() > vocab_size:
        least = core.get_vocab_size()
        raise ValueError(f"these texts need a vocabulary of {least} or more, got {vocab_size}")
    core.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, special.index(token)) for token in special]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def encode_text(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int
) -> dict[str, np.ndarray]:
    """Token ids of `texts`, cut to `length` (special tokens kept) and padded to it.

    Returns:
      `input_ids` and `attention_mask` (1 on tokens, 0 on padding), int32 [texts, length].

    Raises:
      ValueError: `length` leaves no room for a token beside the special ones.
    """
    special = tokenizer.num_special_tokens_to_add()
    if length <= special:
        raise ValueError(f"a length of {length} leaves no room beside {special} special tokens")
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=length,
        padding="max_length",
        padding_side="right",
        return_attention_mask=True,
        return_tensors="np",
    )
    return {k: encoded[k].astype(np.int32) for k in ("input_ids", "attention_mask")}


def encode_translation(
    tokenizer: PreTrainedTokenizerBase,
    english: Sequence[str],
    french: Sequence[str],
    source_length: int,
    target_length: int,
) -> dict[str, np.ndarray]:
    """Prompted English as input, French as labels, each ending in the end-of-text token.

    Returns:
      `input_ids` and `attention_mask`, int32 [pairs, source_length]; `labels`,
      int32 [pairs, target_length], −100 on padding.

    Raises:
      ValueError: sides of different lengths, or a length with no room for the prompt and a token.
    """
    if len(english) != len(french):
        raise ValueError(f"{len(english)} English texts, but {len(french)} French ones")
    prompted = len(tokenizer(PROMPT)["input_ids"])
    if source_length <= prompted:
        raise ValueError(f"a source length of {source_length} is spent on the prompt ({prompted})")
    source = encode_text(tokenizer, [PROMPT + text for text in english], source_length)
    target = encode_text(tokenizer, french, target_length)
    labels = np.where(target["attention_mask"], target["input_ids"], np.int32(NOT_COUNTED))
    return {**source, "labels": labels}


def pad_translation(
    encoded: dict[str, np.ndarray], padding: Padding, length: int | None, pad_token: int
) -> dict[str, np.ndarray]:
    """`encode_translation`'s rows with their padding hidden, attended, or counted as well.

    Args:
      encoded: Rows [..., tokens] whose padding is masked.
      padding: "masked" keeps `attention_mask`. "attended" drops it, so that a model attends the
        source's padding like text. "counted" also makes the targets' padding `pad_token`, which
        the loss counts, instead of −100.
      length: What sources, and targets whose padding is counted, are padded to; None is as they
        are.
      pad_token: Of the padding.
    """

    def wide(rows: np.ndarray, fill: int) -> np.ndarray:
        more = 0 if length is None else length - rows.shape[-1]
        return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, more)], constant_values=fill)

    made = {"input_ids": wide(encoded["input_ids"], pad_token)}
    if padding == "masked":
        made["attention_mask"] = wide(encoded["attention_mask"], 0)
    labels = encoded["labels"]
    if padding == "counted":
        labels = wide(labels, NOT_COUNTED)
        labels = np.where(labels == NOT_COUNTED, np.int32(pad_token), labels)
    return made | {"labels": labels}


def rows_without_text(
    input_ids: np.ndarray, attention_mask: np.ndarray, tokenizer: PreTrainedTokenizerBase
) -> np.ndarray:
    """The rows, ascending, in which `mask_tokens` finds no token to mask.

    Raises:
      ValueError: a tokenizer without a mask token.
    """
    return np.flatnonzero(~_maskable(input_ids, attention_mask, tokenizer).any(axis=1))


def _maskable(input_ids, attention_mask, tokenizer) -> np.ndarray:
    """Which tokens are neither special nor padding, bool [rows, length]."""
    if tokenizer.mask_token_id is None:
        raise ValueError("the tokenizer has no mask token: masking needs a RoBERTa-style one")
    special = np.zeros(max(len(tokenizer), int(input_ids.max(initial=0)) + 1), bool)
    special[tokenizer.all_special_ids] = True
    return (attention_mask != 0) & ~special[input_ids]


def mask_tokens(
    input_ids: np.ndarray,
    attention_mask: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    rng: np.random.Generator,
    probability: float = 0.15,
) -> dict[str, np.ndarray]:
    """Mask tokens for masked language modelling, as transformers' collator does.

    Each token that is neither special nor padding is chosen with `probability`; a chosen one
    becomes `<mask>` (80 %), a token uniform over the vocabulary (10 %) or stays (10 %). Where a
    row has none chosen, the one with the smallest draw is, which is uniform. The number of draws
    depends on the shape alone: a mask is a function of `rng` and of which tokens may be masked.

    Returns:
      `input_ids`, `attention_mask`, `labels` (−100 where not chosen), int32 [rows, length].

    Raises:
      DataError: a row with no token to mask.
      ValueError: a tokenizer without a mask token, or a probability outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"the masking probability must lie in [0, 1], got {probability}")
    ids, attention_mask = np.asarray(input_ids, np.int32), np.asarray(attention_mask, np.int32)
    eligible = _maskable(ids, attention_mask, tokenizer)
    empty = np.flatnonzero(~eligible.any(axis=1))
    if len(empty):
        raise DataError(f"row {empty[0]}: no token to mask ({len(empty)} of {len(ids)} rows)")

    draw = np.where(eligible, rng.random(ids.shape), 2.0)
    chosen = draw < probability
    chosen[np.arange(len(ids)), draw.argmin(axis=1)] = True
    action = rng.random(ids.shape)
    random_ids = rng.integers(0, len(tokenizer), ids.shape, np.int32)
    replaced = np.where(action < 0.8, np.int32(tokenizer.mask_token_id), random_ids)
    return {
        "input_ids": np.where(chosen & (action < 0.9), replaced, ids),
        "attention_mask": attention_mask,
        "labels": np.where(chosen, ids, np.int32(NOT_COUNTED)),
    }
