#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dpo_lora_fuzz::run("csv", data));
