"""An embedding server in OpenAI's form with a real sentence encoder: MiniLM by onnxruntime, its own tokenizer in front.

A call is one execution: its texts are padded to the longest of them and pooled by the mean of what is no padding. With
--merge calls that wait for the encoder are executed together, as servers that batch by themselves do.

    python sentence_encoder.py --model DIRECTORY --port 8080 [--merge]
"""

import argparse
import asyncio
import base64
import contextlib
import dataclasses
import json
import pathlib
import zipfile

import numpy as np
import onnxruntime
import tokenizers
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

MODEL = "paraphrase-MiniLM-L3-v2"
HIDDEN_STATES = "onnx::Shape_422"
LONGEST_TEXT_TOKENS = 128
LARGEST_EXECUTION_TEXTS = 32


class Refused(Exception):
    """A request that is wrong: the parameter and what is wrong with it."""


class Encoder:
    """Texts to vectors; counts what it does."""

    def __init__(self, directory, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        [graph] = pathlib.Path(directory).rglob(f"{MODEL}.onnx")
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        [archive] = pathlib.Path(directory).rglob("model.zip")
        with zipfile.ZipFile(archive) as packed:
            self.tokenizer = tokenizers.Tokenizer.from_str(packed.read("tokenizer.json").decode())
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(LONGEST_TEXT_TOKENS)
        self.counts = {"calls": 0, "executions": 0, "texts": 0, "largest_execution": 0, "tokens": 0}

    def token_ids(self, entry):
        """Of a text, or of what is token ids already."""
        return self.tokenizer.encode(entry).ids if isinstance(entry, str) else entry

    def encode(self, sequences):
        """The unit vectors of sequences of token ids, as float32 [len(sequences), 384]."""
        longest = max(map(len, sequences))
        ids = np.zeros((len(sequences), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        [hidden] = self.session.run([HIDDEN_STATES], {"input_ids": ids, "attention_mask": mask})
        weights = mask[..., None].astype(np.float32)
        vectors = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        self.counts["executions"] += 1
        self.counts["texts"] += len(sequences)
        self.counts["largest_execution"] = max(self.counts["largest_execution"], len(sequences))
        self.counts["tokens"] += int(mask.sum())
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@dataclasses.dataclass
class Waiting:
    sequences: list
    vectors: asyncio.Future


class Server:
    def __init__(self, encoder, merge, only_floats):
        self.encoder, self.merge, self.only_floats = encoder, merge, only_floats
        self.queue = asyncio.Queue()

    @contextlib.asynccontextmanager
    async def lifespan(self, _):
        worker = asyncio.create_task(self.work())
        yield
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)

    async def work(self):
        """Executes what waits, one execution at a time."""
        while True:
            taken = [await self.queue.get()]
            while self.merge and not self.queue.empty() and self.texts(taken) < LARGEST_EXECUTION_TEXTS:
                taken.append(self.queue.get_nowait())
            taken = [waiting for waiting in taken if not waiting.vectors.cancelled()]
            together = [sequence for waiting in taken for sequence in waiting.sequences]
            if not together:
                continue
            vectors = await asyncio.to_thread(self.encoder.encode, together)
            start = 0
            for waiting in taken:
                end = start + len(waiting.sequences)
                if not waiting.vectors.cancelled():
                    waiting.vectors.set_result(vectors[start:end])
                start = end

    @staticmethod
    def texts(taken):
        return sum(len(waiting.sequences) for waiting in taken)

    @staticmethod
    def entries(body):
        """The texts or sequences of token ids of a request."""
        found = body.get("input")
        if isinstance(found, str) or (isinstance(found, list) and found and isinstance(found[0], int)):
            found = [found]
        if not isinstance(found, list) or not found or not all(found):
            raise Refused("input", "`input` must be a text, token ids, or a list of either, none of them empty")
        if len(found) > LARGEST_EXECUTION_TEXTS:
            raise Refused("input", f"`input` has {len(found)} entries; at most {LARGEST_EXECUTION_TEXTS} are taken")
        for entry in found:
            ids = isinstance(entry, list) and all(isinstance(item, int) and 0 <= item < 30_522 for item in entry)
            if not isinstance(entry, str) and not (ids and len(entry) <= LONGEST_TEXT_TOKENS):
                raise Refused("input", "an entry of `input` is neither a text nor at most 128 token ids")
        return found

    async def embeddings(self, request):
        self.encoder.counts["calls"] += 1
        try:
            body = json.loads(await request.body())
            if body.get("model") != MODEL:
                raise Refused("model", f"the only model is {MODEL}")
            form = body.get("encoding_format", "float")
            if form not in ("float", "base64"):
                raise Refused("encoding_format", "`encoding_format` must be float or base64")
            sequences = [self.encoder.token_ids(entry) for entry in self.entries(body)]
        except Refused as refused:
            param, message = refused.args
            error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
            return JSONResponse({"error": error}, 400)
        waiting = Waiting(sequences, asyncio.get_running_loop().create_future())
        await self.queue.put(waiting)
        vectors = await waiting.vectors
        data = [
            {"object": "embedding", "index": index, "embedding": written(vector, self.only_floats or form == "float")}
            for index, vector in enumerate(vectors)
        ]
        tokens = sum(map(len, sequences))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": MODEL, "usage": usage})

    async def models(self, _):
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def health(self, _):
        return JSONResponse({"status": "ok"})

    async def statistics(self, _):
        return JSONResponse(self.encoder.counts)

    def application(self):
        routes = [
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/health", self.health),
            Route("/statistics", self.statistics),
        ]
        return Starlette(routes=routes, lifespan=self.lifespan)


def written(vector, as_floats):
    return vector.tolist() if as_floats else base64.b64encode(vector.astype("<f4").tobytes()).decode()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="directory that the packages were installed into")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--only-floats", action="store_true", help="ignore encoding_format, as some servers do")
    arguments = parser.parse_args()
    server = Server(Encoder(arguments.model, arguments.threads), arguments.merge, arguments.only_floats)
    uvicorn.run(server.application(), host="127.0.0.1", port=arguments.port, log_level="warning", loop="asyncio")


if __name__ == "__main__":
    main()
