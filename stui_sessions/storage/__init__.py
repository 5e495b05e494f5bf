"""Where sessions live when nobody looks."""
