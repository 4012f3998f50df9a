"""A caller that traces with OpenTelemetry's own SDK, and a collector: batchwise as the environment configures it."""

import concurrent.futures
import http.server
import os
import pathlib
import subprocess
import threading

import grpc
import openai
import pytest
from opentelemetry import propagate, trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider, sampling

from support.batchwise import program
from support.processes import wait_until

MODELS = """
    [[model]]
    name = "echo"
    protocol = "embedded"
    instances = ["echo"]
    """
MESSAGES = [{"role": "user", "content": "say this again"}]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans by gRPC and over HTTP."""

    def __init__(self):
        self.resources, self.spans = [], []
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.endpoints = {"grpc": f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"}
        self.server.start()
        self.web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.endpoints["http/protobuf"] = f"http://127.0.0.1:{self.web.server_port}"
        self.thread = threading.Thread(target=self.web.serve_forever)
        self.thread.start()

    def stop(self):
        self.server.stop(None).wait()
        self.web.shutdown()
        self.thread.join()
        self.web.server_close()

    def handler(self):
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                known = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
                if known:
                    collector.Export(trace_service_pb2.ExportTraceServiceRequest.FromString(body), None)
                self.send_response(200 if known else 404)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        return Handler

    def Export(self, request, context):
        for resource in request.resource_spans:
            self.resources.append(attributes(resource.resource))
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def attributes(thing):
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in thing.attributes}


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.stop()


def environment(collector, protocol="grpc", **more):
    endpoint = collector.endpoints.get(protocol, "http://127.0.0.1:9")
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, **more}


def chat(server, headers):
    with openai.OpenAI(base_url=f"http://{server.http}/v1", api_key="any", max_retries=0) as client:
        with client.chat.completions.create(
            model="echo", messages=MESSAGES, stream=True, stream_options={"include_usage": True}, extra_headers=headers
        ) as stream:
            return list(stream)[-1].usage


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_callers_trace_goes_on_in_batchwise(collector, start_batchwise, protocol):
    server = start_batchwise(MODELS, environment=environment(collector, protocol, OTEL_SERVICE_NAME="gateway"))
    tracer = TracerProvider().get_tracer("caller")
    unsampled = TracerProvider(sampler=sampling.ALWAYS_OFF).get_tracer("caller")
    for each in (tracer, unsampled):
        with each.start_as_current_span("ask") as asking:
            headers = {}
            propagate.inject(headers)
            usage = chat(server, headers)
        if each is tracer:
            caller = asking.get_span_context()
    # What is recorded arrives without anybody's asking; the rest when the process ends.
    wait_until(lambda: len(collector.spans) >= 3, "spans arrive by themselves")
    server.stop()
    assert [resource["service.name"] for resource in collector.resources] == ["gateway"] * len(collector.resources)
    by_kind = {span.kind: span for span in collector.spans}
    call, queue, asked = (by_kind[kind] for kind in (2, 1, 3))
    assert len(collector.spans) == 3
    assert {trace.format_trace_id(int.from_bytes(span.trace_id, "big")) for span in collector.spans} == {
        trace.format_trace_id(caller.trace_id)
    }
    assert int.from_bytes(call.parent_span_id, "big") == caller.span_id
    assert queue.parent_span_id == asked.parent_span_id == call.span_id
    assert [link.span_id for link in queue.links] == [asked.span_id]
    assert call.name == asked.name == "chat echo"
    said = attributes(call)
    assert said["gen_ai.operation.name"] == "chat" and said["batchwise.outcome"] == "ok"
    tokens = (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"])
    assert tokens == (usage.prompt_tokens, usage.completion_tokens)
    assert said["gen_ai.response.time_to_first_chunk"] > 0


def test_the_environment_says_how_much_is_recorded(collector, start_batchwise):
    few = environment(collector, OTEL_TRACES_SAMPLER="parentbased_always_off")
    server = start_batchwise(MODELS, environment=few)
    chat(server, {})
    server.stop()
    assert collector.spans == []


def test_a_protocol_that_is_not_spoken_is_told_at_the_start(collector, tmp_path):
    config = pathlib.Path(tmp_path) / "models.toml"
    config.write_text(MODELS)
    done = subprocess.run(
        [program(), "serve", "--config", config, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
        env={**os.environ, **environment(collector, "http/json")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        text=True,
    )
    assert done.returncode == 1
    assert "OTEL_EXPORTER_OTLP_PROTOCOL" in done.stderr and '"grpc"' in done.stderr and "http/json" in done.stderr
