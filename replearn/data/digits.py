"""The handwritten digits that come with scikit-learn: 1,797 scans of 8 x 8 pixels."""

import torch
import torch.nn.functional as F

from replearn.data.imageset import Arrays, fixed_fifth

CLASS_NAMES = tuple("0123456789")


def on_disk() -> bool:
    """Return True: the scans are a part of scikit-learn."""
    return True


def read() -> Arrays:
    """Return the scans, enlarged to 32 x 32 pixels; a fixed fifth of each class is for tests."""
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)  # (N, 64), 17 levels of gray from 0 to 16
    gray = torch.from_numpy(scans * (255 / 16)).reshape(-1, 1, 8, 8)
    large = F.interpolate(gray, size=32, mode="bilinear").round().to(torch.uint8)
    images = large.numpy().repeat(3, axis=1)
    return Arrays(images, labels, fixed_fifth(labels), CLASS_NAMES)
