"""The command line: `stui-sessions` and its subcommands, which `main.py` lists."""
