//! MAT-files of level 5: any bytes give variables or an error.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = dml_data::format::mat::parse(bytes, Path::new("fuzz"));
});
