"""Records to tables, one file per table."""
