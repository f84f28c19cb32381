"""Hostile content, and what must hold of whoever reads it.

    @fuzzed
    @given(content=changed(valid))
    def test_...(tmp_path, content):
        with watched(tmp_path):
            told = told_by(lambda: read(path), names=path)

A reader returns, or raises one of the errors that the command line turns into one sentence. It runs no program, asks no
network, unpickles nothing, writes nowhere but in the test's folder, and ends within bounds of time and memory.
"""

import getpass
import json
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st

from alexnet_ablations.cli.errors import EXPECTED, sentence_of

fuzzed = settings.get_profile("hostile")
fuzzed_folders = settings(fuzzed, max_examples=fuzzed.max_examples // 2)  # every reader of a run takes its time

SECONDS = 10  # of processor time, for files of a few kilobytes
MEBIBYTES = 400  # that the process may grow by
NUMBERS = (b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x01\0\0\0", b"\x7f\xff\xff\xff")
TOKENS = (
    *NUMBERS, b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"'", b",", b"[" * 2000, b"{" * 50,
    b"9" * 400, b"1e400", b"NaN", b"-Infinity", b"null", b"\x1b]0;owned\x07", b"\x1b[2J", "\u202e".encode(),
    b"../" * 9, b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02cos\nsystem\n", b"A" * 5000,
)  # fmt: skip
# In place of a value of JSON or TOML.
NASTY = (
    None, True, False, -1, 0, 3, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, 1e308, float("nan"), float("inf"),
    "", "0", "\0", "\x1b]0;owned\x07", "\ud800", "a" * 3000, "../../etc/passwd",
    [], [[]], [None], [1, "a"], {}, {"a": {"a": []}}, [0.5] * 7,
)  # fmt: skip

# What reading must not do; sys.addaudithook calls us for each.
FORBIDDEN = {
    "pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty",
    "subprocess.Popen", "socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request",
}  # fmt: skip
WRITING = {
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
}
_watch: list[tuple[Path, list[str]]] = []  # the folder that may be written, and what was done against the rules


def _hear(event, arguments):
    if not _watch:
        return
    folder, offences = _watch[-1]
    if event in FORBIDDEN:
        offences.append(f"{event} {arguments!r:.200}")
    elif event == "open":
        path, mode, flags = arguments
        is_writing = any(letter in (mode or "") for letter in "wax+") or (flags or 0) & (
            os.O_WRONLY | os.O_RDWR | os.O_CREAT
        )
        if is_writing and not isinstance(path, int) and not _is_below(path, folder):
            offences.append(f"writes {path!r}")
    elif event in WRITING and not isinstance(arguments[0], int):
        path = os.fsdecode(arguments[0])
        if event != "os.truncate" and isinstance(arguments[-1], int) and arguments[-1] >= 0:  # below an open folder
            path = os.path.join(f"/proc/self/fd/{arguments[-1]}", path)  # noqa: PTH118  # it may be absolute already
        if not _is_below(path, folder):
            offences.append(f"{event} {arguments!r:.200}")


def _is_below(path, folder):
    text = os.path.realpath(os.fsdecode(path))
    return text.startswith((str(folder.resolve()), "/dev/null", "/proc/")) or "__pycache__" in text


# torch makes its folder for compiled code once, at some first use of its own, which is no reader's doing.
(Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}").mkdir(exist_ok=True)

sys.addaudithook(_hear)


@contextmanager
def watched(folder, seconds=SECONDS, mebibytes=MEBIBYTES):
    """Fail if the block does what reading must not, or takes more than so much time or memory."""
    offences = []
    before, began = _forget_peak(), time.process_time()
    _watch.append((folder, offences))
    try:
        yield
    finally:
        _watch.pop()
    assert not offences, f"reading did more than read: {offences[:3]}"
    took = time.process_time() - began
    assert took < seconds, f"it took {took:.1f} s of processor time"
    grown = _peak() - before
    assert grown < mebibytes * 1024, f"the process grew by {grown // 1024} MiB"


def _forget_peak():
    """Let Linux count the peak of this process's memory from here; return what it holds, in KiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # another system, or not allowed: then the peak so far is where we begin
        return _peak()
    return _peak()


def _peak():
    lines = Path("/proc/self/status").read_text().splitlines() if sys.platform == "linux" else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def told_by(call, names=None):
    """Return what a call returns, or its error as a sentence, which names the file; any other error is a fault."""
    try:
        return call()
    except EXPECTED as error:
        sentence = sentence_of(error, ["study"])
        assert sentence.strip(), f"{error!r} says nothing"
        assert len(sentence) < 4000, f"a sentence of {len(sentence)} letters: {sentence[:200]}"
        assert names is None or str(names) in sentence, f"it does not name the file: {sentence}"
        return Told(sentence)


class Told(str):
    """The sentence with which a reader refused what it read."""


@st.composite
def changed(draw, valid, tokens=TOKENS):
    """Draw valid bytes with one to four changes: bits, pieces lost, added, moved, doubled, or set to extremes."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        size = draw(st.integers(1, 64))
        match draw(st.sampled_from(("bit", "end", "cut", "token", "random", "double", "swap", "extreme"))):
            case "bit" if content:
                content[at] ^= 1 << draw(st.integers(0, 7))
            case "end":
                del content[at:]
            case "cut":
                del content[at : at + size]
            case "token":
                content[at:at] = draw(st.sampled_from(tokens))
            case "random":
                content[at : at + size] = draw(st.binary(min_size=1, max_size=64))
            case "double":
                content[at:at] = content[at : at + 16 * size]
            case "swap":
                to = draw(st.integers(0, max(len(content) - 1, 0)))
                content[at : at + size], content[to : to + size] = content[to : to + size], content[at : at + size]
            case "extreme":
                content[at : at + 4] = draw(st.sampled_from(NUMBERS))
    return bytes(content)


@st.composite
def altered(draw, value, nasty=NASTY):
    """Draw a JSON value some of whose parts are replaced, removed, renamed or repeated."""
    whole = [json.loads(json.dumps(value))]
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(_places(whole)))
        match draw(st.sampled_from(("replace", "replace", "remove", "rename", "repeat"))):
            case "replace":
                holder[key] = draw(st.sampled_from(nasty))
            case "remove" if holder is not whole:
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(("", "a", "\x1b[2J", "train", key + "x")))] = holder.pop(key)
            case "repeat" if isinstance(holder, list) and holder is not whole:
                holder[key:key] = [holder[key]] * 3
    return whole[0]


def _places(value):
    """List every place in lists and objects, as holder and key."""
    places = []
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        places.append((value, key))
        if isinstance(item, dict | list):
            places += _places(item)
    return places


def as_json(value):
    """Write a value as JSON, with NaN and infinities as Python writes them."""
    return json.dumps(value).encode()
