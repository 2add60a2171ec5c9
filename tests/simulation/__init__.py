"""The whole service in one process under simulated time: real handlers, real Lua, seeded faults (see world.py)."""
