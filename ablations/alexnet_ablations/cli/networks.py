"""alexnet-lab networks: the list of networks, or one of them layer by layer."""

from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from alexnet_lab.networks.catalogue import CATALOGUE, find_entry
from alexnet_lab.terminal import open_console


def networks(
    name: Annotated[str | None, typer.Argument(help="Network to show layer by layer.", show_default=False)] = None,
    preset: Annotated[str | None, typer.Option(help="Published variant of AlexNet.", show_default="paper")] = None,
    norm: Annotated[str | None, typer.Option(help="Normalisation, e.g. bn, lrn:k=1.", show_default="published")] = None,
    act: Annotated[str | None, typer.Option(help="Activation, e.g. leaky:0.1.", show_default="published")] = None,
    dropout: Annotated[float | None, typer.Option(help="Dropout.", show_default="published")] = None,
    width: Annotated[float, typer.Option(help="Multiple of every channel count.")] = 1.0,
    image_size: Annotated[int | None, typer.Option(min=1, help="Side of the image.", show_default="published")] = None,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 1000,
    in_channels: Annotated[int, typer.Option(min=1, help="3 for colour, 1 for grey.")] = 3,
) -> None:
    """List the networks, or print one as a table.

    [bold]alexnet-lab networks[/]                         list them
    [bold]alexnet-lab networks alexnet --norm bn[/]       every layer, measured
    [bold]alexnet-lab networks vgg11 --image-size 96[/]

    The table gives output shape, parameters, multiply-adds and receptive field.
    """
    console = open_console()
    if name is None:
        if any(slot is not None for slot in (preset, norm, act, dropout, image_size)):
            raise ValueError("an option needs the name of a network; for example: networks alexnet --norm bn")
        _print_list(console)
        return
    side = image_size or find_entry(name).image_size
    title = f"{name}, {classes} classes, {in_channels}x{side}x{side}"
    import torch

    from alexnet_lab.networks import build_network
    from alexnet_lab.networks.summary import summarise

    try:
        with torch.device("meta"):  # no weight is drawn or stored
            network = build_network(
                name,
                classes,
                preset=preset,
                norm=norm,
                act=act,
                dropout=dropout,
                width=width,
                image_size=side,
                in_channels=in_channels,
            )
        rows = summarise(network, side, in_channels)
    except RuntimeError as error:  # the size of a tensor overflows torch's integers
        raise ValueError(f"{title} at width {width:g} is too large ({error}); take a smaller width or image") from None
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("layer", overflow="fold")
    table.add_column("kind", overflow="fold")
    for header in ("output", "parameters", "multiply-adds", "field"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        counts = [f"{n:,}" if n else "" for n in (row.parameters, row.multiply_adds)]
        table.add_row(row.name, row.kind, "x".join(map(str, row.output_shape)), *counts, row.receptive_field)
    console.print(table)
    # Not a sum over rows, which would miss a parameter of a module that has children.
    total = sum(p.numel() for p in network.parameters())
    console.print(f"{total:,} parameters, {sum(r.multiply_adds for r in rows):,} multiply-adds per image")
    console.print(
        "[dim]multiply-adds: of convolutions and linear layers; field: side of the receptive field in pixels, "
        "or all of the image[/]"
    )


def _print_list(console: Console) -> None:
    tables = {"Networks": {name: entry.description for name, entry in CATALOGUE.items()}}
    for name, entry in CATALOGUE.items():
        if entry.presets:
            tables[f"Presets of {name}"] = {preset: variant.description for preset, variant in entry.presets.items()}
    for title, descriptions in tables.items():
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", show_header=False)
        table.add_column(no_wrap=True)
        table.add_column()
        for name, description in descriptions.items():
            table.add_row(name, description)
        console.print(table)
    console.print("[dim]alexnet-lab networks alexnet --preset paper --norm bn   prints one layer by layer[/]")
