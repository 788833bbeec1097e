"""What the tests stand on: real and scripted servers, the ledger, and waiting for conditions."""

import pytest

# What helpers assert is told in full, as in a test.
pytest.register_assert_rewrite("chaos.operations", "chaos.traffic", "faults.load", "support.interrupts")
