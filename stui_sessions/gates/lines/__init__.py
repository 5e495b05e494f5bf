"""Lines of JSON over TCP and Unix sockets."""
