"""A durable session server for programs with a terminal or an editor in front."""

__version__ = "0.1.0"
