"""The only part that knows asyncio: connections, commits, the sweeper."""
