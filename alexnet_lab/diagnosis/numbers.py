"""Numbers as people write them: −0.5 and 1.2×10⁻⁵, where a format string has -0.5 and 1.2e-05."""

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def written(value: float, digits: int = 4, *, signed: bool = False) -> str:
    """Write a number with so many significant digits; `signed` puts a plus before those that are not negative.

    >>> written(-0.000012)
    '−1.2×10⁻⁵'
    """
    text = f"{value:{'+' if signed else ''}.{digits}g}".replace("-inf", "−inf")
    head, marker, exponent = text.partition("e")
    if not marker:
        return text.replace("-", "−")
    power = "10" + raised(int(exponent))
    return head.replace("-", "−") + "×" + power if head.lstrip("+-") != "1" else f"{head[:-1].replace('-', '−')}{power}"


def raised(exponent: int) -> str:
    """Write an exponent in superscript.

    >>> "2" + raised(-14)
    '2⁻¹⁴'
    """
    return str(exponent).translate(_SUPERSCRIPTS)
