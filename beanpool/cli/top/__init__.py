"""``beanpool top``: a live view of the servers and tubes."""
