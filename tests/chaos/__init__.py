"""Chaos: a real ``availability up`` under load, broken again and again, and the proof of what it promised meanwhile.

Layer 3 of the tests. ``make chaos`` runs it and writes the table; ``tests/test_chaos_run.py`` is its short form.

===================  ============================================================================================
``fault.py``         what a fault is: the interface that every injector has, and the list of them all
``stage.py``         the ``availability up`` that is broken: its processes, its addresses, its log, when it is ready
``kills.py``         the faults that only need signals
``history.py``       what was asked and answered, and when: the evidence
``shopper.py``       the load: shoppers
``feeder.py``        the load: stock events over NATS and HTTP
``evidence.py``      what the journal and the live ledger say, read at a quiet point
``checks.py``        the checkers, from history and evidence to findings
``linearizable.py``  one of them: a small search for an order of the operations that explains every answer
``run.py``           a run: load, faults, quiet points, checks
``table.py``         what is told of it
===================  ============================================================================================
"""
