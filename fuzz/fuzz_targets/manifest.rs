//! Manifests of datasets: any text gives a manifest whose entries are sound, or an error.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(manifest) = dml_data::Manifest::parse(text, Path::new("fuzz"))
    {
        for dataset in &manifest.datasets {
            // A name is a component of a path: it must not lead elsewhere.
            assert!(!dataset.name.contains(['/', '\\']) && dataset.name != "..");
            assert!(dataset.files.iter().all(|file| !file.name.contains(['/', '\\'])));
        }
    }
});
