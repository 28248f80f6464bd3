#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    strata_exporter::fuzzing::web_config(bytes);
});
