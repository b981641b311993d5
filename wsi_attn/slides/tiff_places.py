"""Places of strips and tiles in a TIFF that cannot be right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import SlideTruncatedError

OVERLAP_BYTES = 8
"""Bytes that the ranges of two compressed tiles may share, because some writers count padding."""

HEADER_BYTES = 8
"""No tile begins within the header of the file."""


def proven_lengths(offsets: NDArray[np.int64], lengths: NDArray[np.int64], *, packed: bool = True) -> NDArray[np.int64]:
    """Return the lengths, with 1 for tiles whose place is wrong: no decoder accepts a single byte, so they are
    unreadable.

    Missing tiles have length 0 and offset 0 or, if the writer stored an empty tile, the offset of the next one. Places
    are wrong if the length is 0 otherwise, or if tiles begin within the header or overlap; tiles may share all their
    bytes.

    Parameters
    ----------
    packed
        Whether the tiles are compressed; the ranges of such tiles may share `OVERLAP_BYTES`.
    """
    if len(offsets) != len(lengths):
        return lengths
    lost = (lengths > 0) & (offsets < HEADER_BYTES)
    if (empty := (lengths == 0) & (offsets > 0)).any():
        following = np.where(lengths > 0, np.arange(len(offsets)), len(offsets))
        after = np.append(offsets, -1)[np.minimum.accumulate(following[::-1])[::-1]]
        _, places, counts = np.unique(offsets, return_inverse=True, return_counts=True)
        lost |= empty & np.where(after >= 0, offsets != after, counts[places] == 1)
    order = np.flatnonzero((lengths > 0) & ~lost)
    order = order[np.argsort(offsets[order], kind="stable")]
    begins, ends = offsets[order], offsets[order] + lengths[order]
    new = np.append(True, (begins[1:] != begins[:-1]) | (ends[1:] != ends[:-1]))[: len(order)]
    begins, ends, most = begins[new], ends[new], OVERLAP_BYTES if packed else 0
    overlaps = np.zeros(len(begins), np.bool_)
    overlaps[1:] = np.minimum(np.maximum.accumulate(ends)[:-1], ends[1:]) - begins[1:] > most
    overlaps[:-1] |= np.minimum(ends[:-1], ends[1:]) - begins[1:] > most
    lost[order] |= overlaps[np.cumsum(new) - 1]
    return np.where(lost, 1, lengths)


def refuse_all_missing(path: Path, lengths: NDArray[np.int64]) -> None:
    """Check that an image has at least one strip or tile.

    Raises
    ------
    SlideTruncatedError : all are missing, and it would be read as background.
    """
    if lengths.size and not lengths.any():
        raise SlideTruncatedError(f"{path} is damaged: all {lengths.size} tiles of an image are missing; copy it again")
