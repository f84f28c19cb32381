"""Names for patients in everything that is written: a keyed digest in place of what a table or a path calls them.

The key is a digest of the whole column and of the image in each row. All runs on the same data therefore write the same
name for a patient, on every machine, and no key has to be stored. Who has the table can compute the names. Who has only
what was written cannot try identifiers one by one, because the key needs all of them.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BYTES = 8  # of a name: among a million patients two share one with probability 3e-8


def pseudonyms(owners: NDArray[np.str_], images: Sequence[str]) -> NDArray[np.str_]:
    """Return a name for the patient of each image, N, such as `patient 3f9a0c1d2e4b5a69`."""
    whole = hashlib.blake2b(digest_size=32)
    for owner, image in zip(owners.tolist(), images, strict=True):
        whole.update(repr((owner, image)).encode(errors="surrogateescape"))
    key = whole.digest()
    own, place = np.unique(owners, return_inverse=True)
    names = [
        "patient " + hashlib.blake2b(name.encode(errors="surrogateescape"), key=key, digest_size=BYTES).hexdigest()
        for name in own.tolist()
    ]
    return np.array(names)[place.reshape(-1)]


def order_of(owners: NDArray[np.str_]) -> NDArray[np.int64]:
    """Return the place of each image's patient among all patients in order of their own names, N: splits follow it."""
    return np.unique(owners, return_inverse=True)[1].reshape(-1).astype(np.int64)
