"""This server's own benchmark: a closed loop of real requests over real connections."""
