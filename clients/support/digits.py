"""The quarter of scikit-learn's digits that the built-in model has never seen (the split of training/train_digits.py)."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

MODEL = "digits"
REQUIRED_ACCURACY = 0.97


def held_out():
    """(images as FP32 [n, 64] with pixels 0..16, labels [n])"""
    images, labels = load_digits(return_X_y=True)
    _, images, _, labels = train_test_split(
        images, labels, test_size=0.25, random_state=0, stratify=labels
    )
    return images.astype(np.float32), labels.astype(np.int64)
