"""Records to tables to text: intervals, verdicts, published numbers; no torch."""
