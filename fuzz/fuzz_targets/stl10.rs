//! Files of STL-10: any bytes give images, labels or an error.
#![no_main]

use std::path::Path;

use dml_data::format::stl10;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(pixels) = stl10::parse_images(bytes, Path::new("fuzz")) {
        assert_eq!(pixels.len(), bytes.len());
    }
    if let Ok(labels) = stl10::parse_labels(bytes, Path::new("fuzz")) {
        assert!(labels.iter().all(|&label| label < 10));
    }
});
