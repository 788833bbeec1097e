"""The demo: servers, producers and workers, and one server that dies."""
