//! Files of CIFAR-10 and CIFAR-100: any bytes give records or an error.
#![no_main]

use std::path::Path;

use dml_data::format::cifar::{self, Variant};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for variant in [Variant::Cifar10, Variant::Cifar100] {
        if let Ok(records) = cifar::parse(bytes, variant, Path::new("fuzz")) {
            assert_eq!(records.pixels.len(), records.labels.len() * cifar::PIXELS);
        }
    }
});
