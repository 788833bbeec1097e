"""What the tests stand on: real and scripted servers, the ledger, and waiting for conditions."""
