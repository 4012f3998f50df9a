// What the official openai package for JavaScript repeats by itself, counted by the model server behind the proxy.
//
//   BATCHWISE_URL=... SERVER_URL=... CHAT_MODEL=... NODE_PACKAGES=... node --test retries.test.mjs

import assert from "node:assert/strict";
import net from "node:net";
import { beforeEach, test } from "node:test";
import { OpenAI, clientOf, rejectedWith, until } from "./support.mjs";

const model = process.env.CHAT_MODEL;
const proxy = process.env.BATCHWISE_URL;
const messages = [{ role: "user", content: "hello" }];
const well = {
  fail: "never",
  overload: "never",
  stall: "never",
  drop_connection: "never",
  drop_moment: "at_once",
  token_interval_ms: 0,
};

async function control(settings) {
  const reply = await fetch(`${process.env.SERVER_URL}/control`, { method: "POST", body: JSON.stringify(settings) });
  assert.ok(reply.ok, await reply.text());
}

const statistics = async () => (await fetch(`${process.env.SERVER_URL}/statistics`)).json();
const fault = (status, retry_after = null) => ({ grpc: 13, http: status, message: `injected ${status}`, retry_after });
const ask = (client, options = {}) => client.chat.completions.create({ model, messages, ...options });

// What `call` gave, how many calls reached the model server meanwhile, and how long it took.
async function counted(call) {
  const before = (await statistics()).calls;
  const began = performance.now();
  const outcome = await call();
  return { outcome, milliseconds: performance.now() - began, calls: (await statistics()).calls - before };
}

beforeEach(async () => {
  await control(well);
  await until(() => ask(clientOf(proxy)).then(Boolean, () => false), "the instance is used again");
});

test("429 is repeated after the time that it says", async () => {
  await control({ overload: "next:1", overload_with: fault(429, 1) });
  const { outcome, milliseconds, calls } = await counted(() => ask(clientOf(proxy, { maxRetries: 2 })));
  assert.ok(outcome.choices.length);
  assert.equal(calls, 2);
  assert.ok(milliseconds >= 990, `${milliseconds} ms`);
});

test("429 that does not end is a RateLimitError", async () => {
  await control({ overload: "always", overload_with: fault(429, 1) });
  const { outcome, calls } = await counted(() =>
    rejectedWith(OpenAI.RateLimitError, ask(clientOf(proxy, { maxRetries: 1 }), { stream: true })),
  );
  assert.equal(calls, 2);
  assert.ok(Number(outcome.headers.get("retry-after-ms")) > 0);
});

test("503 without an instance is an InternalServerError", async () => {
  const call = clientOf(proxy, { maxRetries: 1 }).chat.completions.create({ model: process.env.GONE_MODEL, messages });
  const error = await rejectedWith(OpenAI.InternalServerError, call);
  assert.equal(error.status, 503);
  assert.equal(error.code, "no_capacity");
  assert.ok(Number(error.headers.get("retry-after-ms")) > 0);
});

test("a connection that the engine cuts is repeated", async () => {
  await control({ drop_connection: "next:1" });
  const { outcome, calls } = await counted(() => ask(clientOf(proxy, { maxRetries: 4 })));
  assert.ok(outcome.choices.length);
  assert.equal(calls, 2);
});

test("500 is repeated and then an InternalServerError", async () => {
  await control({ fail: "always", fail_with: fault(500) });
  const { outcome, calls } = await counted(() =>
    rejectedWith(OpenAI.InternalServerError, ask(clientOf(proxy, { maxRetries: 1 }))),
  );
  assert.equal(calls, 2);
  assert.match(outcome.message, /injected 500/);
});

test("refusals have classes of their own and are not repeated", async () => {
  const classes = {
    400: OpenAI.BadRequestError,
    401: OpenAI.AuthenticationError,
    403: OpenAI.PermissionDeniedError,
    404: OpenAI.NotFoundError,
    422: OpenAI.UnprocessableEntityError,
  };
  for (const [status, expected] of Object.entries(classes)) {
    await control({ fail: "always", fail_with: fault(Number(status)) });
    for (const stream of [false, true]) {
      const client = clientOf(proxy, { maxRetries: 2 });
      const { outcome, calls } = await counted(() => rejectedWith(expected, ask(client, { stream })));
      assert.equal(calls, 1);
      assert.equal(outcome.status, Number(status));
    }
  }
});

test("a deadline that passed is not repeated", async () => {
  await control({ stall: "always" });
  const { outcome, calls } = await counted(() =>
    rejectedWith(OpenAI.InternalServerError, ask(clientOf(proxy, { maxRetries: 2 }))),
  );
  assert.equal(calls, 1);
  assert.equal(outcome.status, 504);
  assert.equal(outcome.code, "deadline_exceeded");
});

test("a connection that is cut before the headers is repeated", async () => {
  let cuts = 1;
  const { hostname, port } = new URL(proxy);
  const relay = net.createServer((caller) => {
    caller.on("error", () => {});
    if (cuts > 0) {
      cuts -= 1;
      caller.once("data", () => caller.resetAndDestroy());
      return;
    }
    const onward = net.connect(Number(port), hostname);
    onward.on("error", () => caller.destroy());
    caller.pipe(onward).pipe(caller);
  });
  await new Promise((resolve) => relay.listen(0, "127.0.0.1", resolve));
  try {
    const url = `http://127.0.0.1:${relay.address().port}`;
    const failed = await counted(() => ask(clientOf(url)).catch((error) => error));
    assert.ok(failed.outcome instanceof OpenAI.APIConnectionError);
    assert.equal(failed.calls, 0);
    cuts = 1;
    const { outcome, calls } = await counted(() => ask(clientOf(url, { maxRetries: 2 })));
    assert.ok(outcome.choices.length);
    assert.equal(calls, 1);
  } finally {
    relay.close();
    relay.unref();
  }
});

test("a stream that breaks throws and is not repeated", async () => {
  await control({ drop_connection: "always", drop_moment: "mid_reply" });
  const { outcome, calls } = await counted(async () => {
    try {
      for await (const _ of await ask(clientOf(proxy, { maxRetries: 2 }), { stream: true }));
    } catch (error) {
      return error;
    }
    return null;
  });
  assert.ok(outcome instanceof OpenAI.APIError, String(outcome));
  assert.equal(calls, 1);
});

test("a caller that runs out of time takes its call along", async () => {
  await control({ stall: "always" });
  const before = (await statistics()).cancelled;
  const error = await ask(clientOf(proxy, { timeout: 200 })).catch((error) => error);
  assert.ok(error instanceof OpenAI.APIConnectionTimeoutError);
  await until(async () => (await statistics()).cancelled > before, "the call is taken back", 1_000);
});

test("an abort in the middle of a stream is passed on", async () => {
  await control({ token_interval_ms: 100 });
  const before = (await statistics()).cancelled;
  const stream = await ask(clientOf(proxy), { stream: true });
  for await (const _ of stream) stream.controller.abort();
  await until(async () => (await statistics()).cancelled > before, "the stream is taken back", 1_000);
});
