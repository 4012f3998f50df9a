"""y = 2x + 1 after LINEAR_BATCH_SECONDS for the batch and LINEAR_ROW_SECONDS for every row in it."""

import os
import time

import triton_python_backend_utils as triton

BATCH_SECONDS = float(os.environ["LINEAR_BATCH_SECONDS"])
ROW_SECONDS = float(os.environ["LINEAR_ROW_SECONDS"])


class TritonPythonModel:
    def execute(self, requests):
        begun = time.perf_counter()
        inputs = [triton.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        answers = [triton.InferenceResponse([triton.Tensor("y", x * 2 + 1)]) for x in inputs]
        service_time = BATCH_SECONDS + ROW_SECONDS * sum(len(x) for x in inputs)
        # The work above is part of the service time, so that the backend's own cost is not counted against Triton.
        # What the backend spends before and after this function, the calibration takes off the two constants.
        time.sleep(max(0.0, service_time - (time.perf_counter() - begun)))
        return answers
