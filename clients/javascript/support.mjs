// The official openai package and what several scripts need.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

// The packages are installed outside of the source tree.
export const { default: OpenAI } = createRequire(`${process.env.NODE_PACKAGES}/`)("openai");

export function clientOf(url, options = {}) {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0, timeout: 60_000, ...options });
}

export const single = (vector) => Array.from(Float32Array.from(vector));

export function cosineDistance(left, right) {
  const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);
  const [a, b] = [Array.from(left), Array.from(right)];
  return 1 - dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

// The error of a promise that has to fail with this class and with all four keys of an error of the API.
export async function rejectedWith(expected, promise) {
  const error = await promise.then(
    () => assert.fail("it did not fail"),
    (error) => error,
  );
  assert.ok(error instanceof expected, `${error?.constructor?.name}: ${error?.message}`);
  assert.deepEqual(Object.keys(error.error).sort(), ["code", "message", "param", "type"]);
  assert.ok(error.requestID);
  return error;
}

export async function until(condition, what, timeoutMilliseconds = 10_000) {
  const deadline = performance.now() + timeoutMilliseconds;
  while (!(await condition())) {
    assert.ok(performance.now() < deadline, `${what}: not within ${timeoutMilliseconds} ms`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

// How many requests llama.cpp's server works on, by its own gauge.
export async function runningInLlama(url) {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(text.match(/^llamacpp:requests_processing (\d+)/m)[1]);
}
