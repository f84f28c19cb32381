"""Intervals for shares of images: of one share, and of the difference between two."""


def wilson(right: int, images: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share, both ends between 0 and 1; it supposes that images are independent."""
    from scipy.stats import binomtest

    ends = binomtest(right, images).proportion_ci(0.95, "wilson")
    return float(ends.low), float(ends.high)


def newcombe(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float]:
    """Return the 95% interval of the first share less the second, each as (right, images), of different images.

    Newcombe 1998, Statistics in Medicine 17, 873-890: method 10, from the Wilson intervals of the two.
    """
    (one, one_low, one_high), (two, two_low, two_high) = (
        (right / images, *wilson(right, images)) for right, images in (first, second)
    )
    below = ((one - one_low) ** 2 + (two_high - two) ** 2) ** 0.5
    above = ((one_high - one) ** 2 + (two - two_low) ** 2) ** 0.5
    return one - two - below, one - two + above
