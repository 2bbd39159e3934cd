"""Progress of a run: events with named fields, and the displays that show them."""
