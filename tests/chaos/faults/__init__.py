"""What can be done to a running service: one fault one module."""
