"""`python -m stui_sessions` is `stui-sessions`."""

from stui_sessions.cli.main import main

if __name__ == "__main__":
    main()
