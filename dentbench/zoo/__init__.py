"""Models and data: cards, loading, training and downloads."""
