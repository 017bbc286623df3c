//! NPY files: any bytes give an array or an error.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(array) = dml_data::format::npy::parse(bytes, Path::new("fuzz")) {
        assert_eq!(array.shape.iter().product::<usize>(), array.to_f64().len());
    }
});
