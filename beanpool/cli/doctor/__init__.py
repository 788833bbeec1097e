"""``beanpool doctor``: what is wrong with the servers and tubes, and what to do about it."""
