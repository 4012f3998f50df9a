// llama.cpp's server behind the proxy, by the official openai package for JavaScript.
//
//   BATCHWISE_URL=... ENGINE_URL=... CHAT_MODEL=... NODE_PACKAGES=... node --test llama.test.mjs

import assert from "node:assert/strict";
import { test } from "node:test";
import { OpenAI, clientOf, rejectedWith, runningInLlama, until } from "./support.mjs";

const model = process.env.CHAT_MODEL;
const client = clientOf(process.env.BATCHWISE_URL);
const messages = [{ role: "user", content: "Tell me of the sea." }];
const exactly = { model, max_tokens: 10, temperature: 0, seed: 7, cache_prompt: false };
const endless = { model, messages, max_tokens: 400, ignore_eos: true, stream: true };
const running = () => runningInLlama(process.env.ENGINE_URL);

test("a streamed chat says what the whole one says", async () => {
  const whole = await client.chat.completions.create({ ...exactly, messages });
  const options = { stream: true, stream_options: { include_usage: true } };
  let said = "";
  let usage = null;
  for await (const chunk of await client.chat.completions.create({ ...exactly, messages, ...options })) {
    said += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.ok(said.length > 0);
  assert.equal(said, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test("a streamed completion says what the whole one says", async () => {
  const prompt = "Once upon a time";
  const whole = await client.completions.create({ ...exactly, prompt });
  let said = "";
  for await (const chunk of await client.completions.create({ ...exactly, prompt, stream: true })) {
    said += chunk.choices[0]?.text ?? "";
  }
  assert.ok(said.length > 0);
  assert.equal(said, whole.choices[0].text);
});

test("an abort in the middle of a stream frees the engine", async () => {
  const stream = await client.chat.completions.create(endless);
  let chunks = 0;
  for await (const _ of stream) if (++chunks === 3) stream.controller.abort();
  assert.ok(chunks >= 3);
  await until(async () => (await running()) === 0, "the engine is idle");
});

test("a break out of a stream frees the engine", async () => {
  for await (const _ of await client.chat.completions.create(endless)) break;
  await until(async () => (await running()) === 0, "the engine is idle");
});

test("a caller that gives up before the answer is told so", async () => {
  const leaving = new AbortController();
  const asked = { ...endless, stream: false, max_tokens: 60 };
  const call = client.chat.completions.create(asked, { signal: leaving.signal });
  await until(async () => (await running()) === 1, "the engine has begun");
  leaving.abort();
  await assert.rejects(call, (error) => error instanceof OpenAI.APIUserAbortError);
  await until(async () => (await running()) === 0, "the engine is idle", 30_000);
});

test("a prompt that is too long is a bad request", async () => {
  const long = [{ role: "user", content: "word ".repeat(3000) }];
  const error = await rejectedWith(
    OpenAI.BadRequestError,
    client.chat.completions.create({ model, messages: long, stream: true }),
  );
  assert.equal(error.type, "exceed_context_size_error");
  assert.match(error.message, /exceeds the available context size/);
});
