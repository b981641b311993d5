"""`ReaderContract`: what a reader of slide files promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from wsi_attn.errors import NotEncodedError, RegionError, SlideUnsupportedError
from wsi_attn.geometry import Mpp
from wsi_attn.slide import BACKGROUND, Slide
from wsi_attn.slides.open import open_slide
from wsi_attn.slides.reader import READERS, slide_suffixes
from wsi_attn.testing import refuses

MPP = Mpp(0.3, 0.4)


class ReaderContract(ABC):
    """Tests of one reader.

    Attributes
    ----------
    name
        Its name in the registry.
    """

    name: ClassVar[str]

    @abstractmethod
    def slide_file(self, folder: Path) -> Path:
        """Return a file of the format, of at least 64 x 64 pixels; it may be written into an empty folder."""

    def opened(self, file: Path, slide_mpp: Mpp | None = None) -> Slide:
        """Open a file as every command does."""
        return open_slide(file, slide_mpp)

    def test_it_states_suffixes(self, tmp_path: Path) -> None:
        """Suffixes are in lower case with a dot, and files of a folder are found by them."""
        suffixes = READERS.get(self.name).suffixes
        assert suffixes, "the reader states no suffix, so that no file of a folder is a slide"
        assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in suffixes), suffixes
        assert slide_suffixes().issuperset(suffixes)

    def test_it_recognises_its_files(self, tmp_path: Path) -> None:
        """Its own file is recognised; a text file is not, or is refused when it is opened."""
        reader = READERS.get(self.name)
        assert reader.recognises(self.slide_file(tmp_path))
        text = tmp_path / f"text{reader.suffixes[0]}"
        text.write_text("This is not a slide.\n" * 20)
        if reader.recognises(text):
            assert refuses(lambda: reader.open(text, None, ""), SlideUnsupportedError), "the reader opens a text file"

    def test_metadata(self, tmp_path: Path) -> None:
        """Levels go from fine to coarse, level 0 has the size of the slide, and the fingerprint is that of the file."""
        file = self.slide_file(tmp_path)
        with self.opened(file) as slide, self.opened(file) as again:
            info = slide.info
            assert info.reader, "the reader names itself"
            assert info.levels[0].size == info.size0
            assert (info.levels[0].downsample_x, info.levels[0].downsample_y) == (1, 1)
            sizes = [level.size.width * level.size.height for level in info.levels]
            assert sizes == sorted(sizes, reverse=True)
            assert info.fingerprint, "without a fingerprint a prediction cannot be matched with its slide"
            assert info.fingerprint == again.info.fingerprint
            assert info.mpp is None or min(info.mpp) > 0

    def test_the_user_states_the_pixel_size(self, tmp_path: Path) -> None:
        """`--slide-mpp` overrides the file."""
        with self.opened(self.slide_file(tmp_path), MPP) as slide:
            assert slide.info.mpp == MPP
            assert slide.info.mpp_source == "user"

    def test_regions_agree(self, tmp_path: Path) -> None:
        """Two reads of one place return equal pixels, on every level."""
        with self.opened(self.slide_file(tmp_path)) as slide:
            for number, level in enumerate(slide.info.levels):
                whole = slide.read_region((0, 0), number, (48, 40))
                assert whole.shape == (40, 48, 3)
                assert whole.dtype == np.uint8
                corner = round(16 * level.downsample_x), round(8 * level.downsample_y)
                if corner == (16 * level.downsample_x, 8 * level.downsample_y):  # a whole level-0 pixel
                    assert np.array_equal(slide.read_region(corner, number, (32, 32)), whole[8:40, 16:48])

    def test_outside_is_background(self, tmp_path: Path) -> None:
        """Regions may extend beyond every edge."""
        with self.opened(self.slide_file(tmp_path)) as slide:
            width, height = slide.info.size0
            inside = slide.read_region((0, 0), 0, (8, 8))
            across = slide.read_region((-8, -8), 0, (16, 16))
            assert np.array_equal(across[8:, 8:], inside)
            assert (across[:8] == BACKGROUND).all()
            assert (slide.read_region((width, height), 0, (8, 8)) == BACKGROUND).all()
            assert (slide.read_region((width - 4, 0), 0, (8, 8))[:, 4:] == BACKGROUND).all()

    def test_impossible_regions_are_refused(self, tmp_path: Path) -> None:
        """A level that does not exist, and a size that is not positive."""
        with self.opened(self.slide_file(tmp_path)) as slide:
            for level, size in ((len(slide.info.levels), (8, 8)), (-1, (8, 8)), (0, (0, 8))):
                refused = refuses(partial(slide.read_region, (0, 0), level, size), RegionError)
                assert refused, f"level {level}, size {size} is not refused"

    def test_threads_read_the_same_pixels(self, tmp_path: Path) -> None:
        """A slide is read from several threads at once."""
        places = [(x, y) for x in range(0, 40, 8) for y in range(0, 40, 8)]
        with self.opened(self.slide_file(tmp_path)) as slide, ThreadPoolExecutor(4) as pool:
            alone = [slide.read_region(place, 0, (24, 24)) for place in places]
            together = pool.map(lambda place: slide.read_region(place, 0, (24, 24)), places)
            assert all(np.array_equal(*pair) for pair in zip(alone, together, strict=True))

    def test_tiles_are_those_of_the_file_or_refused(self, tmp_path: Path) -> None:
        """`encoded_tiles` covers the level, or states why there are none."""
        with self.opened(self.slide_file(tmp_path)) as slide:
            try:
                tiles = slide.encoded_tiles(0)
            except NotEncodedError:
                return
            rows, columns = tiles.lengths.shape
            width, height = slide.info.size0
            assert (columns - 1) * tiles.tile_size.width < width <= columns * tiles.tile_size.width
            assert (rows - 1) * tiles.tile_size.height < height <= rows * tiles.tile_size.height
            assert len(tiles.read([(0, 0)])[0]) == tiles.lengths[0, 0]
