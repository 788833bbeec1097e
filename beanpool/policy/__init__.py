"""Which server, in what state, how often again: pure decisions, without I/O, clocks or locks."""
