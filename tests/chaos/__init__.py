"""Owns the run that breaks things: real processes under load, real faults, and what must hold all the same."""
