"""A reserve: a sweep, then one wait on all servers."""
