// The official openai package for JavaScript, unmodified.
//
//   BATCHWISE_URL=http://127.0.0.1:8000 CHAT_MODEL=... EMBEDDING_MODEL=... NODE_PACKAGES=... node --test openai.test.mjs

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";

// The packages are installed outside of the source tree.
const { default: OpenAI } = createRequire(`${process.env.NODE_PACKAGES}/`)("openai");

const chatModel = process.env.CHAT_MODEL;
const embeddingModel = process.env.EMBEDDING_MODEL;
const sentence = "the quick brown fox jumps over the lazy dog";
const messages = [{ role: "user", content: sentence }];
const client = new OpenAI({
  baseURL: `${process.env.BATCHWISE_URL}/v1`,
  apiKey: "any",
  maxRetries: 0,
  timeout: 30_000,
});

test("models", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(names.includes(chatModel) && names.includes(embeddingModel));
  assert.equal((await client.models.retrieve(chatModel)).id, chatModel);
});

test("embeddings in base64 and float are equal", async () => {
  const packed = await client.embeddings.create({ model: embeddingModel, input: sentence });
  const plain = await client.embeddings.create({
    model: embeddingModel,
    input: sentence,
    encoding_format: "float",
  });
  const single = (vector) => Array.from(Float32Array.from(vector));
  assert.ok(packed.data[0].embedding.length > 0);
  assert.deepEqual(single(packed.data[0].embedding), single(plain.data[0].embedding));
});

test("chat, whole and streamed, says the same", async () => {
  const whole = await client.chat.completions.create({ model: chatModel, messages });
  const said = whole.choices[0].message.content;
  assert.ok(said.includes(sentence));
  const stream = await client.chat.completions.create({
    model: chatModel,
    messages,
    stream: true,
    stream_options: { include_usage: true },
  });
  const pieces = [];
  let usage = null;
  for await (const chunk of stream) {
    pieces.push(chunk.choices[0]?.delta?.content ?? "");
    usage = chunk.usage ?? usage;
  }
  assert.ok(pieces.length > 2);
  assert.equal(pieces.join(""), said);
  assert.ok(usage.completion_tokens > 0);
});

test("completions", async () => {
  const whole = await client.completions.create({ model: chatModel, prompt: sentence });
  assert.ok(whole.choices[0].text.includes(sentence));
});

test("a stream can be left", async () => {
  const stream = await client.chat.completions.create({ model: chatModel, messages, stream: true });
  for await (const _ of stream) break;
  assert.ok((await client.chat.completions.create({ model: chatModel, messages })).choices.length);
});

test("an unknown model is NotFoundError", async () => {
  await assert.rejects(
    client.chat.completions.create({ model: "nothing", messages }),
    (error) =>
      error instanceof OpenAI.NotFoundError &&
      error.code === "model_not_found" &&
      error.type === "invalid_request_error" &&
      Boolean(error.requestID),
  );
});

test("a bad request is BadRequestError and names the parameter", async () => {
  await assert.rejects(
    client.embeddings.create({ model: embeddingModel, input: [] }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === "input",
  );
});
