"""Pages that show commands and what they print: run the commands anew, and compare or rewrite.

    python tests/ablations/console_pages.py docs/tutorials/xrays.md FOLDER

runs the commands of the page in FOLDER, which has the data they name, and puts what they print into the page.

A command is a line that begins with `$ ` in a block marked ```console; what follows it, up to the next command or the
end of the block, is what it prints.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
WIDTH = "100"


def commands_of(page: str) -> list[str]:
    """Return the commands of a page, in order."""
    return [line[2:] for block in BLOCK.findall(page) for line in block.splitlines() if line.startswith("$ ")]


def printed_by(command: str, folder: Path) -> str:
    """Run a command in bash; return what it prints, standard output and error, without spaces at the ends of lines."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": WIDTH, "ALEXNET_LAB_CACHE": str(folder / "cache")}
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    return "\n".join(lines).strip("\n")


def executed(page: str, folder: Path) -> str:
    """Return the page with what its commands print now."""

    def anew(block: re.Match[str]) -> str:
        parts = []
        for command in commands_of(block[0]):
            print(f"$ {command}", file=sys.stderr, flush=True)  # noqa: T201  # progress: a page may take minutes
            parts.append(f"$ {command}\n{printed_by(command, folder)}".rstrip("\n"))
        return "```console\n" + "\n".join(parts) + "\n```"

    return BLOCK.sub(anew, page)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.write_text(executed(place.read_text(), Path(sys.argv[2])))
