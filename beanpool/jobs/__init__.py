"""Commands on jobs: by their ids, and on many at once."""
