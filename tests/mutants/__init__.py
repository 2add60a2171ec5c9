"""Mutants: guards broken on purpose, one at a time, and the test that has to go red for each.

A test that never fails proves nothing. ``make mutants`` (``python -m tests.mutants``) copies the tree, breaks a guard
in the copy, runs the tests that answer for it there, and prints a table: guard, twin, result. It ends with 1 when a
mutant survives, or does not apply any more because its file was changed: then it is to be written anew.
"""
