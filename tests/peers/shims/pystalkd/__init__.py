"""pystalkd's API over beanpool."""
