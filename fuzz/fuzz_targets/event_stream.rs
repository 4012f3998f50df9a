#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| batchwise_fuzz::event_stream(data));
