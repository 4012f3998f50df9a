//! The generated messages of `proto/inference.proto`.

#![expect(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]

tonic::include_proto!("inference");

/// The encoded descriptors of the protocol, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/inference_descriptor.bin"));
