//! Lists of images in CSV files: any bytes give a list or an error.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = dml_data::Listing::parse(bytes, Path::new("fuzz/list.csv"));
});
