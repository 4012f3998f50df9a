"""A custom MLServer runtime: y = 2x + 1, the index of the largest x, and the note unchanged."""

import asyncio

import mlserver
import numpy as np
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse
from prometheus_client import Histogram

SERVICE_TIME_SECONDS = 0.005


class Affine(mlserver.MLModel):
    async def load(self):
        # Without parallel workers MLServer's metrics page shows prometheus_client's default registry.
        self.rows = Histogram("affine_rows", "Rows in one execution")
        return True

    async def predict(self, payload):
        tensors = {tensor.name: tensor for tensor in payload.inputs}
        x = NumpyCodec.decode_input(tensors["x"])
        self.rows.observe(len(x))
        await asyncio.sleep(SERVICE_TIME_SECONDS)
        y = x * np.float32(2) + np.float32(1)
        notes = StringCodec.decode_input(tensors["note"])
        return InferenceResponse(
            model_name=self.name,
            id=payload.id,
            outputs=[
                NumpyCodec.encode_output("y", y.astype(np.float32)),
                NumpyCodec.encode_output("rank", x.argmax(axis=1).astype(np.int64)),
                StringCodec.encode_output("note", notes),
            ],
        )
