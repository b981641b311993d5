"""Several images as one field."""

import cv2
import numpy as np
import pytest

from wsi_attn.data.manifest import read_manifest
from wsi_attn.data.sources import open_row
from wsi_attn.errors import ManifestError, RegionError, SlideError
from wsi_attn.geometry import Mpp
from wsi_attn.lru import LruCache
from wsi_attn.slides.mosaic import Mosaic


def images(folder, sizes):
    rng = np.random.default_rng(0)
    made = []
    for index, (width, height) in enumerate(sizes):
        made.append(rng.integers(0, 200, (height, width, 3), dtype=np.uint8))
        cv2.imwrite(str(folder / f"{index}.png"), made[-1][..., ::-1])
    return made, [folder / f"{index}.png" for index in range(len(sizes))]


def test_images_lie_in_a_grid_over_white(tmp_path):
    made, paths = images(tmp_path, [(30, 20), (40, 10), (8, 25), (40, 25), (5, 5)])
    wanted = np.full((50, 120, 3), 255, np.uint8)  # 3 columns
    for index, pixels in enumerate(made):
        row, column = divmod(index, 3)
        wanted[row * 25 : row * 25 + len(pixels), column * 40 : column * 40 + pixels.shape[1]] = pixels
    with Mosaic(paths, Mpp(0.5, 0.5)) as slide:
        assert slide.info.size0 == (88, 50)
        assert slide.info.mpp == (0.5, 0.5)
        assert np.array_equal(slide.read_region((0, 0), 0, (120, 50)), wanted)
        assert np.array_equal(slide.read_region((20, 5), 0, (33, 41)), wanted[5:46, 20:53])
        assert (slide.read_region((-50, -50), 0, (9, 9)) == 255).all()
        with pytest.raises(RegionError):
            slide.read_region((0, 0), 1, (5, 5))


def test_only_what_a_region_touches_is_decoded(tmp_path):
    _, paths = images(tmp_path, [(30, 20)] * 4)
    paths[3].write_bytes(paths[3].read_bytes()[:200])  # its header is whole
    with Mosaic(paths) as slide:
        slide.read_region((0, 0), 0, (60, 20))
        with pytest.raises(SlideError, match=r"3\.png"):
            slide.read_region((0, 0), 0, (60, 40))


def test_memory_is_bounded_by_the_cache(tmp_path):
    made, paths = images(tmp_path, [(30, 20)] * 9)
    cache = LruCache(2 * made[0].nbytes)
    with Mosaic(paths, cache=cache) as slide:
        whole = slide.read_region((0, 0), 0, slide.info.size0)
        assert np.array_equal(whole, slide.read_region((0, 0), 0, slide.info.size0))
    assert sum(cache.get(path) is not None for path in paths) == 2


def test_identity_comes_from_all_files(tmp_path):
    _, paths = images(tmp_path, [(30, 20)] * 3)
    prints = {Mosaic(chosen).info.fingerprint for chosen in (paths, paths[:2], paths[::-1])}
    assert len(prints) == 3


def test_a_row_of_several_images(tmp_path):
    _, paths = images(tmp_path, [(30, 20)] * 4)
    table = tmp_path / "m.csv"
    table.write_text("path,label,split\n0.png; 1.png,x,train\n2.png,y,train\n")
    several, single = read_manifest(table)
    assert several.paths == tuple(paths[:2])
    assert (several.path, several.patient) == (paths[0], "0.png; 1.png")
    assert single.paths == (paths[2],)
    with open_row(several) as slide:
        assert slide.info.size0 == (60, 20)
    for rows, said in [
        ("0.png;gone.png,x,train", "row 2: file not found: .*gone.png"),
        ("0.png;0.png,x,train", "row 2: .* contains an image twice"),
        ("0.png;;1.png,x,train", "row 2: .* contains an empty file name"),
        ("0.png;1.png,x,train\n2.png;1.png,y,test", r"file .*1\.png' is in train \(row 2\) and in test \(row 3\)"),
    ]:
        table.write_text(f"path,label,split\n{rows}\n")
        with pytest.raises(ManifestError, match=said):
            read_manifest(table)
