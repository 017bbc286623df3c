//! The binary version of STL-10 (Coates, Ng, Lee 2011): raw pixels column by column, and a byte a label.
//!
//! ```text
//! *_X.bin   an image after the other: 96×96 red, 96×96 green, 96×96 blue, each COLUMN by column
//! *_y.bin   a byte an image: the class, 1 … 10
//! ```

use std::path::Path;

use super::{
    FETCH_AGAIN,
    counted::{Counted, unpacked},
};
use crate::{Error, Result};

/// Rows and columns of an image.
pub const SIDE: usize = 96;
/// Pixels of an image: 3 channels of 96×96.
pub const PIXELS: usize = 3 * SIDE * SIDE;

/// Reads images, row by row as everywhere else: `[n, 3, 96, 96]` in row-major order.
///
/// # Errors
/// [`Error::Io`]; [`Error::Corrupt`] for an empty file or one that ends within an image.
/// # Source
/// Coates et al. 2011 \[coates2011\]; the layout is described at <https://cs.stanford.edu/~acoates/stl10>.
pub fn read_images(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let mut input = unpacked(path.as_ref())?;
    parse_images(&input.rest()?, path.as_ref())
}

/// Reads labels, 0 … 9 as everywhere else (the file counts from 1).
///
/// # Errors
/// [`Error::Io`]; [`Error::Corrupt`] for an empty file or a label beyond 1 … 10.
pub fn read_labels(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let mut input = unpacked(path.as_ref())?;
    parse_labels(&input.rest()?, path.as_ref())
}

/// Reads images from memory; `path` is for messages.
///
/// # Errors
/// As [`read_images`].
/// # Examples
/// ```
/// use dml_data::format::stl10;
/// let mut file = vec![0; 3 * 96 * 96];
/// file[1] = 255; // the second value of the first column
/// let pixels = stl10::parse_images(&file, "train_X.bin".as_ref())?;
/// assert_eq!(pixels[96], 255); // is the first value of the second row
/// # Ok::<(), dml_data::Error>(())
/// ```
pub fn parse_images(bytes: &[u8], path: &Path) -> Result<Vec<u8>> {
    let (n, left) = (bytes.len() / PIXELS, bytes.len() % PIXELS);
    if n == 0 || left != 0 {
        let why =
            format!("{n} whole images of {PIXELS} bytes, then {left} bytes, expected whole images only");
        return Err(corrupt(path, n * PIXELS, why));
    }
    let mut pixels = vec![0; bytes.len()];
    for (from, to) in bytes.chunks_exact(PIXELS).zip(pixels.chunks_exact_mut(PIXELS)) {
        transpose_image(from, to);
    }
    Ok(pixels)
}

/// Reads labels from memory; `path` is for messages.
///
/// # Errors
/// As [`read_labels`].
/// # Examples
/// ```
/// assert_eq!(dml_data::format::stl10::parse_labels(&[1, 10], "train_y.bin".as_ref())?, [0, 9]);
/// # Ok::<(), dml_data::Error>(())
/// ```
pub fn parse_labels(bytes: &[u8], path: &Path) -> Result<Vec<u8>> {
    if bytes.is_empty() {
        return Err(corrupt(path, 0, "the file is empty, expected a byte a label".to_owned()));
    }
    if let Some(i) = bytes.iter().position(|label| !(1..=10).contains(label)) {
        return Err(corrupt(path, i, format!("label {}, expected 1 to 10", bytes[i])));
    }
    Ok(bytes.iter().map(|label| label - 1).collect())
}

/// Columns to rows, channel by channel; both slices hold [`PIXELS`].
pub(crate) fn transpose_image(from: &[u8], to: &mut [u8]) {
    let area = SIDE * SIDE;
    for (from, to) in from.chunks_exact(area).zip(to.chunks_exact_mut(area)) {
        for (column, values) in from.chunks_exact(SIDE).enumerate() {
            for (row, &value) in values.iter().enumerate() {
                to[row * SIDE + column] = value;
            }
        }
    }
}

fn corrupt(path: &Path, offset: usize, why: String) -> Error {
    Counted::new(&[][..], path).corrupt(offset as u64, why, FETCH_AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_become_rows_in_every_channel() -> Result<()> {
        // Value (channel, row, column) as a function of all three, written column by column.
        let value = |k: usize, r: usize, c: usize| (k * 101 + r * 3 + c * 7) as u8;
        let mut file = Vec::new();
        for k in 0..3 {
            for c in 0..SIDE {
                file.extend((0..SIDE).map(|r| value(k, r, c)));
            }
        }
        let twice = [file.clone(), file].concat();
        let pixels = parse_images(&twice, Path::new("x"))?;
        for k in 0..3 {
            for r in 0..SIDE {
                for c in 0..SIDE {
                    assert_eq!(pixels[PIXELS + (k * SIDE + r) * SIDE + c], value(k, r, c));
                }
            }
        }
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named() {
        let images = |n: usize| parse_images(&vec![0; n], Path::new("x")).unwrap_err().to_string();
        assert_eq!(
            images(PIXELS + 1),
            "x: byte 27648: 1 whole images of 27648 bytes, then 1 bytes, expected whole images only; fetch the \
             file again"
        );
        assert!(images(0).contains("0 whole images"));
        let labels = |bytes: &[u8]| parse_labels(bytes, Path::new("y")).unwrap_err().to_string();
        assert_eq!(labels(&[1, 0]), "y: byte 1: label 0, expected 1 to 10; fetch the file again");
        assert_eq!(labels(&[11]), "y: byte 0: label 11, expected 1 to 10; fetch the file again");
        assert_eq!(
            labels(&[]),
            "y: byte 0: the file is empty, expected a byte a label; fetch the file again"
        );
    }
}
