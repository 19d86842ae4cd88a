#![no_main]
use green_api_bridge::fuzzing::KAFKA_SERVERS as TARGET;

libfuzzer_sys::fuzz_target!(init: green_api_bridge_fuzz::lay_seeds(&TARGET), |data: &[u8]| (TARGET.check)(data));
