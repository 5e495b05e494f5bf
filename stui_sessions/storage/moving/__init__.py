"""Moving everything from a local store to a shared one, and back.

Each side is read piece by piece (`LocalSource`, `SharedSource`); each target is made in small
steps that are all or nothing and note how far they have come (`LocalTarget`, `SharedTarget`),
so that a move that was cut off anywhere goes on when it is run again.  No server can use a
target before both sides were compared (`work.py`).
"""
