"""The settings as people read them: rows for `--help`, a table for the README."""

from stui_sessions.config.settings import SETTINGS, Setting

HEAD = ("Setting", "Flag", "Environment", "Default", "Unit", "Reload", "Meaning")


def settings_rows() -> list[Setting]:
    """Every setting, in the order in which people should meet them."""
    return list(SETTINGS.values())


def settings_table() -> str:
    """The README's table in Markdown, ending in a newline; a test keeps the two in step."""
    lines = [_line(*HEAD), _line(*["---"] * len(HEAD))]
    lines += [_line(*_cells(row)) for row in settings_rows()]
    return "\n".join(lines) + "\n"


def _cells(row: Setting) -> tuple[str, ...]:
    meaning = f"{row.meaning} One of {', '.join(f'`{c}`' for c in row.choices)}." if row.choices else row.meaning
    default = f"`{row.default_text}`" if row.default_text else "empty"
    flags = " ".join(f"`{flag}`" for flag in row.flags.split("/"))
    return f"`{row.name}`", flags, f"`{row.env}`", default, row.unit, "yes" if row.reload else "restart", meaning


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
