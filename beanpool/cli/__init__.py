"""The command line: ``python -m beanpool``, or ``beanpool`` once installed. Never loaded by ``import beanpool``."""
