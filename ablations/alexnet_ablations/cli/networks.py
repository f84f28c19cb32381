"""alexnet-lab networks: which there are, and what stands in them."""

from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from alexnet_ablations.cli.terminal import open_console
from alexnet_lab.choices import unknown_choice
from alexnet_lab.levels import NETWORKS, PRESETS


def networks(
    name: Annotated[str | None, typer.Argument(help="Network to show layer by layer.", show_default=False)] = None,
    preset: Annotated[str | None, typer.Option(help="Reading of AlexNet.", show_default="paper")] = None,
    norm: Annotated[str | None, typer.Option(help="Normalisation, e.g. bn, lrn:k=1.", show_default="published")] = None,
    act: Annotated[str | None, typer.Option(help="Activation, e.g. leaky:0.1.", show_default="published")] = None,
    dropout: Annotated[float | None, typer.Option(help="Dropout.", show_default="published")] = None,
    width: Annotated[float, typer.Option(help="Multiple of every channel count.")] = 1.0,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side of the image.", show_default="227, others 224")
    ] = None,
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
            raise ValueError(
                "an option changes one network, and none is named; for example: networks alexnet --norm bn"
            )
        _print_list(console)
        return
    if name not in NETWORKS:
        raise unknown_choice("network", name, NETWORKS)
    side = image_size or (227 if name == "alexnet" else 224)
    title = f"{name}, {classes} classes, {in_channels}x{side}x{side}"
    import torch

    from alexnet_lab.networks import build_network
    from alexnet_lab.networks.summary import summarise

    try:
        with torch.device("meta"):  # shapes without numbers: no weight is drawn or stored
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
    except RuntimeError as error:  # torch counts what a tensor would take, and cannot count this high
        raise ValueError(f"{title} at width {width:g} is too large to be counted ({error}); take less") from None
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("layer", overflow="fold")
    table.add_column("kind", overflow="fold")
    for header in ("output", "parameters", "multiply-adds", "field"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        counts = [f"{n:,}" if n else "" for n in (row.parameters, row.multiply_adds)]
        table.add_row(row.name, row.kind, "x".join(map(str, row.output_shape)), *counts, row.receptive_field)
    console.print(table)
    # Every parameter, wherever it stands: a sum over rows would miss one that no layer owns.
    total = sum(p.numel() for p in network.parameters())
    console.print(f"{total:,} parameters, {sum(r.multiply_adds for r in rows):,} multiply-adds per image")
    console.print(
        "[dim]multiply-adds: of convolutions and linear layers; field: side of the receptive field, pixels[/]"
    )


def _print_list(console: Console) -> None:
    for title, entries in (("Networks", NETWORKS), ("AlexNet presets", PRESETS)):
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", show_header=False)
        table.add_column(no_wrap=True)
        table.add_column()
        for name, description in entries.items():
            table.add_row(name, description)
        console.print(table)
    console.print("[dim]alexnet-lab networks alexnet --preset paper --norm bn   prints one layer by layer[/]")
