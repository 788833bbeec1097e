"""One server, one thread: the API of beanstalkc."""
