"""Directional sharpness of a Hugging Face checkpoint on one's own text.

    pip install '.[models,plot]'
    python examples/hugging_face.py [openai-community/gpt2 [my_text.txt]]

The first argument is a hub id or a folder with a GPT-2; without it, a tiny one is made and saved,
and needs no network. Without the second, the text is this file. It prints a table, and writes
landscape.png into the current directory.
"""

import itertools
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import tokenizers
import transformers

import sharpjax.plot
from sharpjax import models

LENGTH, BATCH = 16, 4


def save_tiny(folder, text):
    """Writes a GPT-2 of 28,000 random parameters and a tokenizer trained on the text."""
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([text], vocab_size=400, show_progress=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer).save_pretrained(
        folder
    )
    sizes = {"vocab_size": 400, "n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2}
    config = models.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    model = models.GPT2(config)
    models.save_pretrained(folder, model, models.init_params(model, jax.random.key(0)))


text = Path(sys.argv[2] if len(sys.argv) > 2 else __file__).read_text(encoding="utf-8")
with tempfile.TemporaryDirectory() as folder:
    if len(sys.argv) < 2:
        save_tiny(folder, text)
    source = sys.argv[1] if len(sys.argv) > 1 else folder
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model, params = models.load_pretrained(source)

# Pieces of LENGTH tokens: the first four batches are the test set, and training repeats the rest.
ids = np.array(tokenizer(text)["input_ids"])
ids = ids[: len(ids) // (BATCH * LENGTH) * BATCH * LENGTH].reshape(-1, BATCH, LENGTH)
batches = [{"input_ids": x, "labels": models.next_token_labels(x)} for x in ids]
comparison = sharpjax.compare(
    models.make_loss(model),
    params,
    ["sgd", "sgd_clip", "adam"],
    itertools.cycle(batches[4:]),
    batches[:4],
    follow="adam",
    steps=30,
    span=False,
    learning_rate=1e-3,
)
columns = ["step", "algorithm", "slope", "sharpness", "sharpness_se", "best_decrease"]
print(comparison.to_pandas()[columns].to_string(index=False, float_format="%.4f"))
sharpjax.plot.landscape(comparison.points[-1]).savefig("landscape.png")
