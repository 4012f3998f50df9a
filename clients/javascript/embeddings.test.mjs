// Embeddings of a real engine, merged by the proxy, by the official openai package for JavaScript.
//
//   BATCHWISE_URL=... ENGINE_URL=... EMBEDDING_MODEL=... NODE_PACKAGES=... node --test embeddings.test.mjs

import assert from "node:assert/strict";
import { test } from "node:test";
import { clientOf, cosineDistance, single } from "./support.mjs";

const model = process.env.EMBEDDING_MODEL;
const client = clientOf(process.env.BATCHWISE_URL);
const engine = clientOf(process.env.ENGINE_URL);
const largestDistance = Number(process.env.LARGEST_COSINE_DISTANCE ?? 1e-5);
const callers = Number(process.env.CALLERS ?? 40);
const texts = Array.from({ length: callers }, (_, index) => `sentence ${index} ${"goes on ".repeat(index % 5)}`);

// What the engine itself says to a lone call; floats, for some engines ignore the form that the client asks for.
async function alone(input) {
  return (await engine.embeddings.create({ model, input, encoding_format: "float" })).data[0].embedding;
}

test("calls at once get the vectors of lone calls", async () => {
  const replies = await Promise.all(texts.map((input) => client.embeddings.create({ model, input })));
  for (const [index, reply] of replies.entries()) {
    assert.equal(reply.data.length, 1);
    assert.equal(reply.data[0].index, 0);
    assert.ok(reply.usage.prompt_tokens > 0);
    assert.ok(cosineDistance(reply.data[0].embedding, await alone(texts[index])) <= largestDistance);
  }
});

test("a list keeps its order", async () => {
  const reply = await client.embeddings.create({ model, input: texts });
  assert.deepEqual(reply.data.map((item) => item.index), texts.map((_, index) => index));
  for (const index of [0, 7, callers - 1]) {
    assert.ok(cosineDistance(reply.data[index].embedding, await alone(texts[index])) <= largestDistance);
  }
});

test("floats and base64 are the same numbers", async () => {
  const input = texts[8];
  const packed = await client.embeddings.create({ model, input });
  const plain = await client.embeddings.create({ model, input, encoding_format: "float" });
  assert.deepEqual(single(packed.data[0].embedding), single(plain.data[0].embedding));
});
