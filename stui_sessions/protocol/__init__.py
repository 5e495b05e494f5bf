"""The wire language: lines, JSON, commands.  No asyncio, no clock, no logging."""
