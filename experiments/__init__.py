"""The study of the paper, run from a checkout: `python -m experiments --help`."""

import os

# Models here are Flax's and tokenizers need no PyTorch: that it is missing is no news. Before
# transformers is imported, which says it then.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
