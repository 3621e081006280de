#!/usr/bin/env python3
"""Write the tables of flags into options.md, from the table of choices: run it as it is."""
import re
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("options.md")
sys.path.insert(0, str(PAGE.parents[1]))

from utils.cli.flags import ROOT, Flag, flag_groups  # noqa: E402, the path comes first


def shown(default: object) -> str:
    """A default as it is written in a command."""
    if default is None:
        return ""
    if isinstance(default, Path):
        default = default.relative_to(ROOT).as_posix() if default.is_absolute() else default.as_posix()
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def table() -> str:
    """All flags, a table a group; a flag of one modality alone says so."""
    groups: dict[str, dict[str, list[tuple[str, Flag]]]] = {}
    for modality in ("ct", "mr"):
        for title, flags in flag_groups(modality).items():
            for flag in flags:
                groups.setdefault(title, {}).setdefault(flag.name, []).append((modality.upper(), flag))
    lines = []
    for title, flags in groups.items():
        lines += ["", f"### {title[0].upper()}{title[1:]}", "", "| flag | meaning | default |", "|---|---|---|"]
        for name, found in flags.items():
            same = len(found) == 2 and found[0][1].help == found[1][1].help
            for modality, flag in found[:1] if same else found:
                meaning = flag.help.replace("|", "\\|")
                lines.append(f"| `--{name} {flag.metavar.replace('|', ' or ')}` | {'' if same else f'{modality}: '}"
                             f"{meaning} | {shown(flag.default)} |")
    return "\n".join(lines[1:])


def page(text: str) -> str:
    """The text of options.md with the tables that the code has."""
    return re.sub(r"(<!-- flags: begin -->\n).*?(<!-- flags: end -->)",
                  lambda found: found[1] + table() + "\n" + found[2], text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
