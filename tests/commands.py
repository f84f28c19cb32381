"""Commands as a user gives them: in a process of their own, or in that of the tests."""

import contextlib
import io
import subprocess
import sys

from alexnet_ablations.cli import main


def command(*words, cwd):
    """Give a command as a user does."""
    return subprocess.run(
        [sys.executable, "-c", "from alexnet_ablations.cli import main; main()", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        timeout=900,
    )


def answered(*words, cwd):
    """Give a command in this process, which takes no seconds to start; runs of studies are processes all the same."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    given = sys.argv
    with contextlib.chdir(cwd), contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        sys.argv = ["alexnet-lab", *map(str, words)]
        try:
            main()
        except SystemExit as ended:
            status = ended.code or 0
        finally:
            sys.argv = given
    return subprocess.CompletedProcess(words, status, *(stream.buffer.getvalue().decode() for stream in streams))
