"""What a user would pick instead, and the tables that compare it with the ledger and its API, measured in one run."""
