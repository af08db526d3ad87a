"""The study of the paper, run from a checkout: `python -m experiments --help`."""
