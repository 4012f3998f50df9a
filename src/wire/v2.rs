//! The Open Inference Protocol's messages to calls and back.
