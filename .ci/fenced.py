"""Print the command in the first fenced block under a heading: fenced.py FILE HEADING."""

import re
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text(encoding="utf-8")
found = re.search(rf"^## {re.escape(sys.argv[2])}\n.*?^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
if found is None:
    sys.exit(f"{sys.argv[1]} has no fenced block under ## {sys.argv[2]}")
print(found[1].strip())
