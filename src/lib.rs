//! batchwise: a request-batching inference proxy.
//!
//! A **front** turns bytes into a **call**. The **lane** of its model keeps calls in order. When a
//! **slot** of an **instance** is free, and not before, the lane cuts a **batch** from what is most
//! urgent *now*. The instance answers the batch; the answer is **split**; every call gets its one
//! **reply**.
//!
//! The rooms, from the bottom up; a room imports only from rooms below it:
//!
//! - [`lane`]: the policy as a state machine: queue, sizing, batches, breakers, fleet, bisection.
//!   Events and explicit time in, effects out; no clock, no task, no socket.
//! - [`tensor`]: datatypes, shapes, ropes, join, split.
//! - [`embedded`]: models that run in this process.
//! - [`config`]: the file as written, the plan as meant.
//! - [`call`]: a call, its terms, its reply, its fault.
//! - [`telemetry`]: metric names and handles, logs.
//! - [`wire`]: protobuf and JSON to calls and back, gRPC framing over ropes, the status table.
//! - [`embedded`]: models that run in this process.
//! - [`instance`]: clients of model servers, embedded models, probes.
//! - [`engine`]: one task per model that drives a lane; the only room that spawns work for calls.
//! - [`jobs`]: OpenAI's Batch API: files, batches, and what answers them.
//! - [`front`]: listeners, gRPC and HTTP services, admin pages.
//! - [`app`]: start, drain, command line.

pub mod app;
pub mod call;
pub mod config;
pub mod embedded;
pub mod engine;
pub mod front;
pub mod instance;
pub mod jobs;
pub mod lane;
pub mod telemetry;
pub mod tensor;
pub mod wire;
