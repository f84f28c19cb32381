"""What a split hides: copies of one file on both of its sides, and one file under two classes."""

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.data.images import Images
from alexnet_lab.data.splits import Split

SHOWN = 3  # examples named in a remark


def remarks_on_copies(images: Images, split: Split) -> list[str]:
    """Say which held-out images are training images too, and which images have two labels; byte for byte, where known.

    Pictures that were scaled or compressed anew are other bytes, and are not found.
    """
    if images.contents is None:
        return []
    remarks = []
    for part in ("validation", "test"):
        there = getattr(split, part)
        copies = there[np.isin(images.contents[there], images.contents[split.train])]
        if len(copies):
            remarks.append(
                f"{len(copies)} of {len(there)} {part} images are training images too, byte for byte "
                f"({_examples(images, copies)}): a network can know them by heart; take them out of one side"
            )
    used = np.concatenate([split.train, split.validation, split.test])
    pairs = np.unique(np.stack([images.contents[used], images.labels[used]]), axis=1)
    contents, labels = np.unique(pairs[0], return_counts=True)
    torn = used[np.isin(images.contents[used], contents[labels > 1])]
    if len(torn):
        remarks.append(
            f"{len(torn)} images stand under more than one class, byte for byte the same "
            f"({_examples(images, torn)}): no network can be right on all of them; leave them out"
        )
    return remarks


def _examples(images: Images, indices: NDArray[np.int64]) -> str:
    if images.names is None:
        return "among them number " + ", ".join(map(str, indices[:SHOWN]))
    more = ", ..." if len(indices) > SHOWN else ""
    return ", ".join(images.names[indices[:SHOWN]].tolist()) + more
