//! IDX files: any bytes give images, labels or an error.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(idx) = dml_data::format::idx::parse(bytes, Path::new("fuzz")) {
        assert_eq!(idx.dims.iter().product::<usize>(), idx.data.len());
    }
});
