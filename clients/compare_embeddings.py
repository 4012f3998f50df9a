"""Embeddings a second at many callers, one text a call, through batchwise and straight to the engine, in one run.

Rounds alternate between the two, each begins with the other one, and what is printed is the median of each and of the
rounds' ratios. Engines: `fixed` is the model server of this project, which takes 10 ms for a call however many texts are
in it, one call at a time; `encoder` is a sentence encoder that executes each call by itself; `merging-encoder` the same,
which executes what waits together; `llama` is llama.cpp's server with mean pooling, which batches by itself.

    scripts/compare-embeddings [--engines fixed,encoder,merging-encoder,llama] [--callers 64] [--seconds 5] [--rounds 5]
"""

import argparse
import dataclasses
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from support import llama_server, sentence_encoder_process  # noqa: E402
from support.batchwise import Batchwise  # noqa: E402
from support.closed_loop import calls_per_second  # noqa: E402
from support.model_server import ModelServer  # noqa: E402

FIXED_MODEL = "embed"


@dataclasses.dataclass(frozen=True)
class Engine:
    model: str
    start: object
    limit: int


ENGINES = {
    "fixed": Engine(FIXED_MODEL, lambda directory: ModelServer(directory, a="10ms", max_batch=64), 64),
    "encoder": Engine(
        sentence_encoder_process.MODEL,
        sentence_encoder_process.SentenceEncoder,
        sentence_encoder_process.LARGEST,
    ),
    "merging-encoder": Engine(
        sentence_encoder_process.MODEL,
        lambda directory: sentence_encoder_process.SentenceEncoder(directory, "--merge"),
        sentence_encoder_process.LARGEST,
    ),
    "llama": Engine(llama_server.MODEL, llama_server.embedding_server, 0),
}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engines", type=lambda text: text.split(","), default=list(ENGINES), help=",".join(ENGINES))
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5, help="length of one round of one of the two")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if unknown := set(arguments.engines) - set(ENGINES):
        parser.error(f"{', '.join(sorted(unknown))}: not among {', '.join(ENGINES)}")
    return arguments


def measure(engine, arguments, directory):
    """Rounds of (calls a second straight to the engine, calls a second through batchwise)."""
    server = engine.start(directory)
    try:
        limit = f"max_batch_size = {engine.limit}" if engine.limit else ""
        config = directory / "models.toml"
        config.write_text(
            f'[[model]]\nname = "{engine.model}"\nprotocol = "openai"\ninstances = ["http://{server.http}"]\n{limit}\n'
        )
        proxy = Batchwise(config, directory)
        try:
            numbers = range(arguments.rounds + 1)
            return [one_round(engine.model, server, proxy, arguments, number) for number in numbers][1:]
        finally:
            proxy.stop()
    finally:
        server.stop()


def one_round(model, server, proxy, arguments, number):
    """The first round warms up and is shorter."""
    seconds = arguments.seconds if number else min(2, arguments.seconds)
    targets = [server, proxy] if number % 2 else [proxy, server]
    rates = {id(target): calls_per_second(target.http, model, arguments.callers, seconds) for target in targets}
    return rates[id(server)], rates[id(proxy)]


def main():
    arguments = parse_arguments()
    print(f"{arguments.callers} callers, {arguments.rounds} rounds of {arguments.seconds:g} s each")
    print(f"{'engine':16}{'direct/s':>10}{'proxied/s':>11}{'ratio':>8}   ratios of the rounds")
    for name in arguments.engines:
        with tempfile.TemporaryDirectory() as directory:
            rounds = measure(ENGINES[name], arguments, pathlib.Path(directory))
        ratios = [proxied / direct for direct, proxied in rounds]
        direct, proxied = (statistics.median(column) for column in zip(*rounds, strict=True))
        told = " ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
        print(f"{name:16}{direct:10.1f}{proxied:11.1f}{statistics.median(ratios):8.2f}   {told}", flush=True)


if __name__ == "__main__":
    main()
