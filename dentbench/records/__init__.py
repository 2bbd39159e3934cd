"""Results as values and on disk: outcomes, records, checkpoints, results.csv."""
