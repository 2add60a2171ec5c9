"""The bench: scenarios that drive a running service from outside, and check afterwards that it kept its promises."""
