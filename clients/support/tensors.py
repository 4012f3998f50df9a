"""tritonclient calls with numpy arrays at both ends, the same for its gRPC and its HTTP client."""

import numpy as np
from tritonclient.utils import np_to_triton_dtype


def inputs(module, **arrays):
    """`InferInput`s of `module` (tritonclient.grpc or .http), one for each named array."""
    made = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def same_bits(left, right):
    """Whether two arrays are equal in type, shape and every bit (a NaN equals itself)."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype == np.object_:
        return left.tolist() == right.tolist()
    return left.tobytes() == right.tobytes()
