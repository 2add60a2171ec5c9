"""The edges of the service: HTTP, feeds, events, processes and the command line around the ledger."""
