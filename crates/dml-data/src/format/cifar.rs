//! The binary version of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): records of labels and pixels, without header.
//!
//! ```text
//! CIFAR-10    1 byte  class          3,072 bytes  pixels
//! CIFAR-100   1 byte  super-class    1 byte  class    3,072 bytes  pixels
//! pixels      1,024 red, 1,024 green, 1,024 blue, each 32×32 row by row
//! ```
//!
//! A file has as many records as its length says; the published ones have 10,000 or 50,000.

use std::path::Path;

use super::{
    FETCH_AGAIN,
    counted::{Counted, unpacked},
};
use crate::Result;

/// Pixels of a record: 3 channels of 32×32.
pub const PIXELS: usize = 3 * 32 * 32;

/// Which of the two sets a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// 10 classes.
    Cifar10,
    /// 100 classes in 20 super-classes.
    Cifar100,
}

impl Variant {
    fn label_bytes(self) -> usize {
        match self {
            Self::Cifar10 => 1,
            Self::Cifar100 => 2,
        }
    }

    /// The number of super-classes, if any, then of classes: the bound of each label byte.
    fn bounds(self) -> &'static [u8] {
        match self {
            Self::Cifar10 => &[10],
            Self::Cifar100 => &[20, 100],
        }
    }
}

/// The records of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Records {
    /// The classes, one a record.
    pub labels: Vec<u8>,
    /// The super-classes, one a record; empty for CIFAR-10.
    pub groups: Vec<u8>,
    /// The pixels, `[n, 3, 32, 32]` in row-major order.
    pub pixels: Vec<u8>,
}

/// Reads a file of records.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) when the file cannot be read; [`Error::Corrupt`](crate::Error::Corrupt) for
/// an empty file, one that ends within a record, a label beyond the classes.
/// # Source
/// Krizhevsky 2009 \[krizhevsky2009\]; the layout is described at <https://www.cs.toronto.edu/~kriz/cifar.html>.
pub fn read(path: impl AsRef<Path>, variant: Variant) -> Result<Records> {
    let mut input = unpacked(path.as_ref())?;
    let bytes = input.rest()?;
    parse(&bytes, variant, path.as_ref())
}

/// Reads records from memory; `path` is for messages.
///
/// # Errors
/// As [`read`].
/// # Examples
/// ```
/// use dml_data::format::cifar::{self, Variant};
/// let mut record = vec![9]; // a truck
/// record.extend([7; 3072]);
/// let records = cifar::parse(&record, Variant::Cifar10, "data_batch_1.bin".as_ref())?;
/// assert_eq!((records.labels, records.pixels.len()), (vec![9], 3072));
/// # Ok::<(), dml_data::Error>(())
/// ```
pub fn parse(bytes: &[u8], variant: Variant, path: &Path) -> Result<Records> {
    let input = Counted::new(bytes, path);
    let size = variant.label_bytes() + PIXELS;
    if bytes.is_empty() {
        return Err(input.corrupt(
            0,
            format!("the file is empty, expected records of {size} bytes"),
            FETCH_AGAIN,
        ));
    }
    let (n, left) = (bytes.len() / size, bytes.len() % size);
    if left != 0 {
        let why =
            format!("{n} whole records of {size} bytes, then {left} bytes, expected whole records only");
        let remedy = "check that this is the binary version of the right set, or fetch it again";
        return Err(input.corrupt((n * size) as u64, why, remedy));
    }
    let mut records = Records { pixels: Vec::with_capacity(n * PIXELS), ..Records::default() };
    for (i, record) in bytes.chunks_exact(size).enumerate() {
        let (labels, pixels) = record.split_at(variant.label_bytes());
        for (k, (&label, &bound)) in labels.iter().zip(variant.bounds()).enumerate() {
            if label >= bound {
                let why = format!("label {label}, expected one below {bound}");
                return Err(input.corrupt((i * size + k) as u64, why, FETCH_AGAIN));
            }
        }
        match *labels {
            [label] => records.labels.push(label),
            [group, label] => {
                records.groups.push(group);
                records.labels.push(label);
            }
            _ => {} // a variant has one or two label bytes
        }
        records.pixels.extend_from_slice(pixels);
    }
    Ok(records)
}

impl Records {
    /// Adds the records of the next file.
    pub fn append(&mut self, mut next: Self) {
        self.labels.append(&mut next.labels);
        self.groups.append(&mut next.groups);
        self.pixels.append(&mut next.pixels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(labels: &[u8], fill: u8) -> Vec<u8> {
        let mut bytes = labels.to_vec();
        bytes.extend((0..PIXELS).map(|i| fill.wrapping_add(i as u8)));
        bytes
    }

    #[test]
    fn records_are_split_into_labels_and_planes() -> Result<()> {
        let path = Path::new("train.bin");
        let bytes = [record(&[19, 99], 0), record(&[0, 1], 5)].concat();
        let mut records = parse(&bytes, Variant::Cifar100, path)?;
        assert_eq!((&records.labels[..], &records.groups[..]), (&[99, 1][..], &[19, 0][..]));
        assert_eq!(records.pixels[..3], [0, 1, 2]);
        assert_eq!(records.pixels[PIXELS..PIXELS + 2], [5, 6]);
        records.append(parse(&record(&[2, 3], 9), Variant::Cifar100, path)?);
        assert_eq!((records.labels.len(), records.pixels.len()), (3, 3 * PIXELS));
        let ten = parse(&record(&[9], 1), Variant::Cifar10, path)?;
        assert_eq!((ten.labels, ten.groups), (vec![9], vec![]));
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message =
            |bytes: &[u8], variant| parse(bytes, variant, Path::new("x.bin")).unwrap_err().to_string();
        assert_eq!(
            message(&[], Variant::Cifar10),
            "x.bin: byte 0: the file is empty, expected records of 3073 bytes; fetch the file again"
        );
        let mut bytes = [record(&[0], 0), record(&[10], 0)].concat();
        assert_eq!(
            message(&bytes, Variant::Cifar10),
            "x.bin: byte 3073: label 10, expected one below 10; fetch the file again"
        );
        bytes.pop();
        assert_eq!(
            message(&bytes, Variant::Cifar10),
            "x.bin: byte 3073: 1 whole records of 3073 bytes, then 3072 bytes, expected whole records only; check \
             that this is the binary version of the right set, or fetch it again"
        );
        assert_eq!(
            message(&record(&[19, 100], 0), Variant::Cifar100),
            "x.bin: byte 1: label 100, expected one below 100; fetch the file again"
        );
        // A file of CIFAR-10 is no file of CIFAR-100.
        assert!(parse(&record(&[3], 0), Variant::Cifar100, Path::new("x.bin")).is_err());
    }
}
