"""Doubles its input; one negative number fails the whole execution with INVALID_ARGUMENT."""

import time

import triton_python_backend_utils as triton

SERVICE_TIME_SECONDS = 0.005


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(SERVICE_TIME_SECONDS)
        return [self.answer(request) for request in requests]

    @staticmethod
    def answer(request):
        x = triton.get_input_tensor_by_name(request, "x").as_numpy()
        if (x < 0).any():
            error = triton.TritonError("x must not be negative", triton.TritonError.INVALID_ARG)
            return triton.InferenceResponse(error=error)
        return triton.InferenceResponse([triton.Tensor("y", x * 2)])
