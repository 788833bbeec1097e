"""One socket, or waiting for many."""
