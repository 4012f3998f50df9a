"""Embeddings as they come from an API, and how far apart two are."""

import base64

import numpy as np


def vector(embedding):
    """Of either form: numbers, or base64 of little-endian single-precision floats."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), "<f4").astype(np.float64)
    return np.asarray(embedding, np.float64)


def cosine_distance(left, right):
    """1 - cosine, in double precision: 0 for the same direction, 2 for the opposite one."""
    left, right = vector(left), vector(right)
    return 1 - left @ right / (np.linalg.norm(left) * np.linalg.norm(right))
