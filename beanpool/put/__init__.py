"""A put: with fail-over, in batches, buffered."""
