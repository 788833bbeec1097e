"""One server of a cluster: its connections, its reserved jobs, its health."""
