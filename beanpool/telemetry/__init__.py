"""What can be seen of a pool: its log, its listeners, its counters and its snapshots."""
