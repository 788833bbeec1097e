"""The process that beanpool runs in: its locks, its limits, and what it loads when it is needed."""
