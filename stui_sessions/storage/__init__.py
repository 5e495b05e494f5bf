"""Stores: where sessions are kept, behind one contract."""
