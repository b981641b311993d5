"""Smoothing against OpenCV's, and what it must leave alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from wsi_attn.nn.filters import smooth


@pytest.mark.parametrize("sigma", [0.4, 0.6, 1.0])
def test_equals_opencv(sigma: float) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (20, 30, 3)).astype(np.float32)
    found = smooth(torch.from_numpy(image).permute(2, 0, 1)[None], sigma)[0].permute(1, 2, 0).numpy()
    wanted = cv2.GaussianBlur(image, (7, 7), sigma, borderType=cv2.BORDER_REPLICATE)
    assert found == pytest.approx(wanted, abs=1e-2)


def test_none_and_constant_change_nothing() -> None:
    images = torch.rand(2, 3, 9, 1)
    assert smooth(images, 0.0) is images
    assert torch.allclose(smooth(torch.full((1, 3, 5, 5), 7.0), 0.9), torch.tensor(7.0))
