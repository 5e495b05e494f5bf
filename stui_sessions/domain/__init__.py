"""The domain: what a session is and what must stay true.  No asyncio, no clock, no file."""
