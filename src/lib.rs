//! batchwise: a request-batching inference proxy.

#[expect(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, reason = "generated")]
pub mod pb {
    tonic::include_proto!("inference");
}
