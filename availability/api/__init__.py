"""The HTTP edge (DESIGN 9): endpoints declared one by one, and one way from bytes to an answer for all of them."""
