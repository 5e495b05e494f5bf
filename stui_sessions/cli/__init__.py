"""The command line: `stui-sessions serve | call | bench | schema`."""
