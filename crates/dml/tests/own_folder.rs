//! The example that trains on one's own folder, run on a small one.
#![allow(dead_code, reason = "the example's `main` is not called")]

#[path = "../examples/own_folder.rs"]
mod example;

/// 100 digits, ten a class, of which two of each are retrieved among the twenty.
#[test]
fn a_folder_of_pictures_is_learned() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    example::make_folder(&dml_data::bundled::mnist_5k()?, 50, folder.path())?;
    let scores = example::learn(folder.path(), 40)?;
    // One of the other 19 is right: chance finds it first one time in 19.
    assert!(scores.precision_at_1 >= 0.2, "{scores:?}");
    Ok(())
}

#[test]
fn a_damaged_picture_is_named() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    example::make_folder(&dml_data::bundled::mnist_5k()?, 50, folder.path())?;
    let damaged = folder.path().join("3").join("1500.png");
    let bytes = std::fs::read(&damaged)?;
    std::fs::write(&damaged, &bytes[..bytes.len() / 2])?;
    let message = example::learn(folder.path(), 40).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("1500.png holds PNG data that cannot be decoded"), "{message}");
    Ok(())
}
