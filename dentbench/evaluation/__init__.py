"""The one path from specs to records: batches mapped, reduced and written down."""
