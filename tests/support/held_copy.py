"""A server whose copies of the database stand still: `python -m tests.support.held_copy serve …`.

Each stays where it is after its first step while there is a file at the path that HELD_COPY names, unless
it is told to stop.
"""

import os
import sys
import time
from pathlib import Path

from stui_sessions.storage.local.backup import Stop

VARIABLE = "HELD_COPY"


def hold_copies(file: Path) -> None:
    """Have whoever copies in this process wait where it asks whether it is to stop."""
    ask = Stop.check

    def check(self: Stop) -> None:
        while file.exists() and not self.is_set:
            time.sleep(0.005)
        ask(self)

    Stop.check = check  # type: ignore[method-assign]


if __name__ == "__main__":
    hold_copies(Path(os.environ[VARIABLE]))
    from stui_sessions.cli.main import main

    sys.exit(main(prog_name="stui-sessions"))
