"""What a study does: training, and what is measured along it."""
