"""Text to what a model trains on: corpora, tokenizers, tasks."""
