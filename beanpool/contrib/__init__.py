"""beanpool inside other people's frameworks: each file needs its extra, and nothing else loads it."""
