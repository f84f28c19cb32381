"""How an object shows itself in a notebook: with the figures that its page has.

Jupyter asks an object for `_repr_html_`. Reports are made above the objects that they are about, so an object names the
function that shows it, which is imported when a notebook asks.
"""

from importlib import import_module
from typing import ClassVar


class Displayed:
    """An object with a page: `shown_by` is "module:function", which takes the object and returns HTML."""

    shown_by: ClassVar[str]

    def _repr_html_(self) -> str:
        module, _, function = self.shown_by.partition(":")
        html: str = getattr(import_module(module), function)(self)
        return html
