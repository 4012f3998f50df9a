"""A custom MLServer runtime: y = 2x + 1, the index of the largest x, and the note unchanged."""

import asyncio

import mlserver
import numpy as np
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse

SERVICE_TIME_SECONDS = 0.005
ROWS_METRIC = "affine_rows"


class Affine(mlserver.MLModel):
    async def load(self):
        mlserver.register(ROWS_METRIC, "Rows in one execution")
        return True

    async def predict(self, payload):
        tensors = {tensor.name: tensor for tensor in payload.inputs}
        x = NumpyCodec.decode_input(tensors["x"])
        mlserver.log(**{ROWS_METRIC: len(x)})
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
