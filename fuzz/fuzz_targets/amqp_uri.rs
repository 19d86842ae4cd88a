#![no_main]
use green_api_bridge::fuzzing::AMQP_URI as TARGET;

libfuzzer_sys::fuzz_target!(init: green_api_bridge_fuzz::lay_seeds(&TARGET), |data: &[u8]| (TARGET.check)(data));
