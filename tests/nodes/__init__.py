"""Several servers over one PostgreSQL: races between them, faults under load, recorded histories.

CI runs a round of each.  The big run, with three nodes everywhere and 200 races, 30 lost nodes, 10 lost primaries
and histories of 10,000 operations (issue 8, "What it must show", 1 to 5), is this, with its figures:

    STUI_TEST_ROUNDS=200 python -m pytest -s tests/nodes
"""
