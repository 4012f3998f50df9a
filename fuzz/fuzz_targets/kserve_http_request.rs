#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| batchwise_fuzz::kserve_http_request(data));
