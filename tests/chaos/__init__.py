"""Chaos: a real ``availability up`` under load, broken again and again, and the proof of what it promised meanwhile.

Layer 3 of the tests. ``make chaos`` runs it and writes the table; ``tests/test_chaos_run.py`` is its short form.

===================  ============================================================================================
``fault.py``         what a fault is: the interface that every injector has; ``faults.py`` is the list of them
``stage.py``         the ``availability up`` that is broken: its processes, its addresses, its log, when it is ready
``kills.py``         the faults that only need signals
``twins.py``         faults that take a guard away: their runs have to be found wrong
``history.py``       what was asked and answered, and when: the evidence from outside
``shopper.py``       the load: shoppers
``feeder.py``        the load: stock events over NATS and HTTP
``effects.py``       one operation in the journal, as the checkers see it
``announced.py``     what was announced over NATS, and whether that is all of it
``evidence.py``      what the journal and the live ledger say, read at a quiet point: the evidence from inside
``checks.py``        the checkers, from both to findings
``linearizable.py``  one of them: the search for an order of the operations that explains every answer
``model.py``         what each operation does to a position in that search
``asking_again.py``  what can only be asked of the live service: unknowns, replays, what it shows
``run.py``           a run: load, faults, quiet points, checks
``table.py``         what is told of it
===================  ============================================================================================
"""
