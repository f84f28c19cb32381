"""The colours of every page and figure, each with a light and a dark version.

A figure is drawn in the light colours. In a page each of them becomes a CSS variable of the same name, so that one
drawing serves both. Series colours follow Okabe and Ito (2008), which stay apart under colour blindness, moved in
lightness until each has a contrast of 3:1 on its background.
"""

from collections.abc import Mapping

# name: (light, dark)
COLOURS: Mapping[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14171b"),
    "panel": ("#f4f6f8", "#1d2126"),
    "ink": ("#1b1f24", "#e8eaed"),
    "muted": ("#59616b", "#a6aeb7"),
    "grid": ("#e2e6ea", "#2c3238"),
    "edge": ("#b8bfc7", "#4a525b"),
    "link": ("#0b5cad", "#7ab8f5"),
    "serious": ("#b3261e", "#ff8a80"),
    "warning": ("#8a5300", "#f2b84b"),
    "note": ("#0b5cae", "#7ab8f6"),
    "good": ("#1d6b3a", "#7fd39b"),
    "on-image": ("#fdfdfe", "#fdfdfe"),  # letters on a dark cell of a picture, which has the same colours on both
    "series-0": ("#0072b2", "#56b4e9"),
    "series-1": ("#cf5b00", "#ff8f4d"),
    "series-2": ("#00805e", "#2fc49b"),
    "series-3": ("#a8477f", "#e59cc8"),
    "series-4": ("#977000", "#e8c440"),
    "series-5": ("#5a4fcf", "#a9a4ff"),
    "series-6": ("#6b6b6b", "#b9b9b9"),
    # From the first layer to the last, or the first epoch to the last: matplotlib's viridis, without its pale end on
    # white and without its dark end on black.
    "depth-0": ("#440154", "#2d718e"),
    "depth-1": ("#481b6d", "#297b8e"),
    "depth-2": ("#463480", "#24868e"),
    "depth-3": ("#404788", "#1f918c"),
    "depth-4": ("#38598c", "#219d89"),
    "depth-5": ("#306a8e", "#35b779"),
    "depth-6": ("#297a8e", "#5cc863"),
    "depth-7": ("#228b8d", "#8fd744"),
    "depth-8": ("#1e9c89", "#fde725"),
}

LIGHT: Mapping[str, str] = {name: light for name, (light, _) in COLOURS.items()}
SERIES = tuple(LIGHT[name] for name in LIGHT if name.startswith("series-"))
DEPTH = tuple(LIGHT[name] for name in LIGHT if name.startswith("depth-"))
VARIABLES: Mapping[str, str] = {light: f"var(--{name})" for name, (light, _) in COLOURS.items()}


def along(position: int, count: int) -> str:
    """Return the colour of one of `count` things in order, such as layers."""
    return DEPTH[0 if count < 2 else round(position / (count - 1) * (len(DEPTH) - 1))]


def style_sheet() -> str:
    """Return the CSS variables, for light pages, dark pages and paper."""
    light = "".join(f"--{name}:{colours[0]};" for name, colours in COLOURS.items())
    dark = "".join(f"--{name}:{colours[1]};" for name, colours in COLOURS.items())
    return (
        f":root{{color-scheme:light dark;{light}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        f"@media print{{:root{{color-scheme:light;{light}}}}}"
    )
