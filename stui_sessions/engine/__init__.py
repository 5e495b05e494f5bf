"""Load, decide, commit, reply: the only owner of the order of things."""
