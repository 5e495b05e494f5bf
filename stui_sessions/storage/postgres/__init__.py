"""The shared store: several servers, one PostgreSQL.  `store.py` is the way in; asyncpg is needed for it."""
