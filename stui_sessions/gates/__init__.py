"""Ways in.  A gate turns bytes into requests, keeps their order, and bounds what is held for each peer."""
