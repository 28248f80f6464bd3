#!/usr/bin/env python3
"""Runs benchmarks and writes their tables into docs/benchmarks.md.

    benches/report.py [NAME...] [-- FLAG...]

NAME is host, containers, domains, history, memory, soak or web_config; default: all. FLAGs are
passed to each. A section lies between `<!-- bench: NAME -->` and `<!-- /bench: NAME -->`, and
is replaced by the command, the date, and what the benchmark printed: tables, titles and
sentences. Nothing is written for a benchmark that fails.
"""

import datetime
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/benchmarks.md"
NAMES = ["host", "containers", "domains", "history", "memory", "soak", "web_config"]


def section(name, flags):
    """The new text of a section."""
    script = f"benches/{name}.py"
    words = [sys.executable, ROOT / script, *flags]
    output = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
    # Headings become bold lines, so that the document's own headings stay the only ones.
    output = re.sub(r"^#+ (.*)$", r"**\1**", output, flags=re.M)
    command = " ".join([script, *flags])
    return f"`{command}`, {datetime.date.today()}.\n\n{output.strip()}\n"


def replaced(text, name, new):
    begin, end = f"<!-- bench: {name} -->\n", f"<!-- /bench: {name} -->\n"
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return head + begin + new + end + tail


def main():
    words = sys.argv[1:]
    flags = words[words.index("--") + 1 :] if "--" in words else []
    names = words[: words.index("--")] if "--" in words else words
    unknown = set(names) - set(NAMES)
    if unknown:
        sys.exit(f"unknown benchmark: {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}")
    for name in names or NAMES:
        new = section(name, flags)
        DOCUMENT.write_text(replaced(DOCUMENT.read_text(), name, new))


if __name__ == "__main__":
    main()
