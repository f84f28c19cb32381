"""alexnet-lab cache: list, check and remove decoded images and downloads."""

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alexnet_lab.terminal import open_console

if TYPE_CHECKING:
    from alexnet_lab.data.upkeep import Entry


def cache(
    prune: Annotated[
        str | None, typer.Option(metavar="AGE", help="Remove what was not used for so long: 12h, 30d, 2w.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything that no process uses.")] = False,
    downloads: Annotated[
        bool, typer.Option("--downloads", help="With --prune or --clear: the downloaded archives too.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare all files with their digests; remove what is damaged.")
    ] = False,
) -> None:
    """List decoded images and downloads, check them, or remove them.

    [bold]alexnet-lab cache[/]                        source, images, size, last use of every entry
    [bold]alexnet-lab cache --check[/]                read all of it; remove what is damaged
    [bold]alexnet-lab cache --prune 30d[/]            remove images that no run opened for 30 days
    [bold]alexnet-lab cache --clear[/]                remove all decoded images
    [bold]alexnet-lab cache --clear --downloads[/]    and the archives they came from

    What a process has open stays. What was removed is decoded, or downloaded,
    again when it is next needed. The cache is in ~/.cache/alexnet-lab, or in
    the folder ALEXNET_LAB_CACHE; a download counts as last used when it came.
    --check ends with status 1 if anything was damaged.
    """
    from alexnet_lab.data.cache import cache_folder, images_folder
    from alexnet_lab.data.upkeep import age_of, cache_entries, unused_for

    console = open_console()
    if prune is not None and clear:
        raise ValueError("--prune AGE removes what is old and --clear everything; give one of them")
    if check and (prune is not None or clear):
        raise ValueError("--check removes what is damaged, --prune AGE and --clear what is whole too; give one of them")
    if downloads and prune is None and not clear:
        raise ValueError("--downloads says what else to remove; give it with --prune AGE or --clear")
    entries = cache_entries()
    if check:
        _check(console, entries)
        return
    if prune is None and not clear:
        _print_list(console, entries)
        console.print(f"{cache_folder()}: {_counted(entries)}", highlight=False, markup=False, soft_wrap=True)
        return
    # Unfinished downloads count as downloads.
    wanted = [entry for entry in entries if downloads or entry.path.parent == images_folder()]
    _remove(console, wanted if prune is None else unused_for(age_of(prune), wanted))


def _print_list(console: Console, entries: "list[Entry]") -> None:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("source", overflow="fold")
    for header in ("images", "pixels", "size", "last used"):
        table.add_column(header, justify="right")
    for entry in entries:
        count = f"{entry.shape[0]:,}" if entry.shape else "-"
        pixels = "x".join(map(str, entry.shape[1:])) or "-"
        what = "" if entry.kind == "images" else f" ({entry.kind})"
        table.add_row(escape(entry.source + what), count, pixels, _size([entry]), _ago(time.time() - entry.used))
    if entries:
        console.print(table)


def _check(console: Console, entries: "list[Entry]") -> None:
    from alexnet_lab.data.upkeep import damage, remove

    damaged = 0
    for entry in entries:
        why = damage(entry)
        if not why:
            continue
        damaged += 1
        done = (
            "removed, and made again when next needed"
            if remove(entry)
            else "in use, so not removed: end the runs that use it and check again"
        )
        console.print(f"damaged: {why}; {done}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"checked {_counted(entries)}: {damaged or 'none'} damaged", highlight=False)
    if damaged:
        raise typer.Exit(1)


def _remove(console: Console, entries: "list[Entry]") -> None:
    from alexnet_lab.data.upkeep import remove

    removed = [entry for entry in entries if remove(entry)]
    for entry in entries:
        if entry in removed:
            continue
        line = f"kept, in use: {entry.source}, {_size([entry])} ({entry.path})"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"removed {_counted(removed)}", highlight=False)


def _counted(entries: "list[Entry]") -> str:
    return f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}, {_size(entries)}"


def _size(entries: "list[Entry]") -> str:
    size = float(sum(entry.bytes for entry in entries))
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _ago(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "now"
