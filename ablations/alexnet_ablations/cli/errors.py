"""Errors that a user can act on, each as one sentence: what must hold, what was received, what would work."""

from collections.abc import Sequence
from pathlib import Path

import typer

from alexnet_ablations.declare.declaration import RECIPE_FIELDS

# What typer raises for words it cannot read; its name for it has moved between versions, this one has not.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
# What a command may end with because of what it was given, or of the machine. Anything else is a fault of ours.
EXPECTED = (ValueError, OSError, MemoryError, UsageError)
REPEATABLE = ("--track",)  # options that may be given more than once


def refuse_repeated(words: Sequence[str]) -> None:
    """Refuse an option that is given twice: the last would count, and the first be ignored."""
    options = [word.partition("=")[0] for word in words if word.startswith("--") and word != "--"]
    for option in options:
        if options.count(option) > 1 and option not in REPEATABLE:
            raise ValueError(f"{option} is given twice, and only one of them could count; say all of it in one")


def sentence_of(error: Exception, words: Sequence[str]) -> str:
    """Return the sentence for an error that a command ended with; `words` are those that the user typed."""
    if isinstance(error, UsageError):
        return _of_usage(error, words)
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error)
    if isinstance(error, MemoryError):
        return (
            "the memory of this machine is not enough for this command; close other programs, or take less: a smaller "
            "--image-size, --width or --batch-size, fewer images, fewer --jobs"
        )
    # The message on a field of the recipe begins with its name and a colon. Whoever typed it typed an option.
    field, colon, rest = str(error).partition(": ")
    option = "--" + field.replace("_", "-")
    return f"{option}: {rest}" if colon and field in RECIPE_FIELDS and _follows(option, words) else str(error)


def _of_system(error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    if error.filename is not None:
        remedy = "name another place, or repair this one"
        if _is_in_cache(str(error.filename)):
            remedy = "set ALEXNET_LAB_CACHE to a folder for decoded images that can be written"
        return f"{error.filename} cannot be read or written ({reason.lower()}); {remedy}"
    if reason.startswith("No usable temporary directory"):  # tempfile has tried them all
        return "no folder for temporary files can be written; set TMPDIR to one that can, with free space"
    # Where a write fails midway, the system does not say in which file.
    return f"writing or reading failed ({reason.lower()}); see to that, and the same command goes on"


def _is_in_cache(path: str) -> bool:
    from alexnet_lab.data.cache import cache_folder

    return Path(path).is_relative_to(cache_folder())


def _of_usage(error: Exception, words: Sequence[str]) -> str:
    text: str = error.format_message().rstrip(".")  # type: ignore[attr-defined]  # every one of typer's errors has it
    text = text.replace("Input should be", "it must be").partition(", unable to parse")[0]
    text = text.replace("a valid integer", "a whole number").replace("a valid number", "a number")
    for option in getattr(getattr(error, "param", None), "opts", ()):
        received = _follows(option, words)
        if received and repr(received[-1]) not in text and f": {received[-1]} is" not in text:
            text += f", got {received[-1]!r}"
    context = getattr(error, "ctx", None)
    command = "alexnet-lab" if context is None else context.command_path
    end = "" if text.endswith("?") else ";"
    return f"{text[:1].lower()}{text[1:]}{end} {command} --help says what it takes"


def _follows(option: str, words: Sequence[str]) -> list[str]:
    """Return what was typed behind an option, with a space or an = between."""
    after = [later for word, later in zip(words, [*words[1:], ""], strict=True) if word == option]
    return after + [word.partition("=")[2] for word in words if word.startswith(option + "=")]
