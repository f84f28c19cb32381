"""A process that has imported what runs need, and forks one run after another from there.

    python -m alexnet_lab.training.forks      # standard input: one end of a socket pair, of packets

Importing takes seconds, as long as many a short run trains. Whoever holds the other end sends, for each run,
{"folder": PATH} with three open files: the run's standard input (a pipe that closes when the coordinator dies), its
output, and the lock of its folder. The answers are {"ready": PID} once, {"started": PID} or {"failed": WHY} for each
run, and {"ended": PID, "code": CODE} at its end, where a negative code is the number of the signal that ended it.
The process ends when the other end closes; its runs go on until they see that their own pipe closed.

A forked run has the numbers of one that was started by itself, to the last bit. This process therefore only imports: it
computes nothing with torch, draws nothing, opens no GPU, and keeps no thread of its own. Its environment holds the
number of threads that a run's libraries read when they are loaded. (An allocator that pyarrow brings, where that is
installed, has a thread, and handlers that make it safe to fork.)
"""

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
import warnings
from typing import Any

from alexnet_lab.training import run
from alexnet_lab.training.process import COORDINATED, leave

# What a run imports once it gets there; each run would do so again, if it were not done here.
LATE = (
    "alexnet_kernels._cpu",
    "alexnet_kernels._statistics",
    "alexnet_lab.networks.alexnet",
    "sklearn.datasets",
    "sklearn.model_selection",
    "torch._dynamo",  # by the first step of any optimiser
)
MOST_BYTES = 65_536  # of a message
FILES = 3  # that come with a run: standard input, output, lock


def main() -> int:
    """Serve until the other end closes."""
    coordinator = socket.socket(fileno=os.dup(0))
    for name in LATE:
        importlib.import_module(name)
    woken, waker = os.pipe()
    for end in (woken, waker):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # a run has ended: written to the pipe by Python
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    gc.collect()
    gc.freeze()  # what is here stays, so that runs need neither look through it nor copy its pages
    _send(coordinator, {"ready": os.getpid()})
    with selectors.DefaultSelector() as selector:
        selector.register(coordinator, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == woken:
                    os.read(woken, 1000)
                    _report_ends(coordinator)
                elif not _serve(coordinator, (selector.fileno(), woken, waker)):
                    return 0


def _serve(coordinator: socket.socket, own: tuple[int, ...]) -> bool:
    """Fork the next run; False if there is nobody any more who would ask for one. `own` are files no run may hold."""
    message, files, _, _ = socket.recv_fds(coordinator, MOST_BYTES, FILES)
    if not message:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the libraries above have none of
            process = os.fork()
    except OSError as error:
        _send(coordinator, {"failed": error.strerror})
    else:
        if process == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for file in (coordinator.detach(), *own):
                os.close(file)
            leave(_run(json.loads(message)["folder"], files))
        _send(coordinator, {"started": process})
    finally:
        for file in files:
            os.close(file)
    return True


def _run(folder: str, files: list[int]) -> int:
    """Be the process of a run, as if it had been started by itself; return its exit status."""
    commands, output, _ = files
    os.setsid()
    for source, target in ((commands, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(commands)
    os.close(output)
    sys.argv = [str(run.__file__), COORDINATED, folder]
    try:
        return run.main(sys.argv[1:])
    except KeyboardInterrupt:
        traceback.print_exc()
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001  # as the interpreter does with what nobody caught
        traceback.print_exc()
    return 1


def _report_ends(coordinator: socket.socket) -> None:
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if process == 0:
            return
        _send(coordinator, {"ended": process, "code": os.waitstatus_to_exitcode(status)})


def _send(coordinator: socket.socket, message: dict[str, Any]) -> None:
    try:
        coordinator.send(json.dumps(message).encode())
    except BrokenPipeError:  # the coordinator is gone, which the next look at the socket finds too
        return


if __name__ == "__main__":
    sys.exit(main())
