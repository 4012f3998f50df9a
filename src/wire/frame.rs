//! gRPC messages over HTTP/2 bodies, kept as ropes.
