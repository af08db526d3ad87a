"""What a run's records say: claims, tables, figures, the page and the documents."""
