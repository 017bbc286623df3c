//! SVHN, cropped digits: `X` `[32, 32, 3, n]` and `y` `[n, 1]` in a MAT-file a part, where label 10 is the digit 0
//! \[netzer2011\].

use std::{path::Path, sync::Arc};

use super::{Opened, Set};
use crate::{
    Dataset, Error, ImageSet, Result,
    format::mat::{self, Value},
};

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;

pub(super) fn open(dataset: &Dataset, folder: &Path) -> Result<Opened> {
    let part = |name: &str| -> Result<Set> {
        Ok(Set::Memory(Arc::new(read(&folder.join(name), dataset.classes.clone())?)))
    };
    Ok(Opened::divided(part("train_32x32.mat")?, part("test_32x32.mat")?))
}

/// The digits of one file.
fn read(path: &Path, class_names: Vec<String>) -> Result<ImageSet> {
    let fault = |why: String| Error::Corrupt {
        path: path.to_owned(),
        offset: 128, // where the variables begin
        why,
        remedy: "give a file of the cropped digits, train_32x32.mat or test_32x32.mat",
    };
    let (mut pixels, mut labels) = (None, None);
    for variable in mat::read(path)? {
        match (variable.name.as_str(), variable.value) {
            // A single image has lost its last size.
            ("X", Value::Bytes { dims, values })
                if matches!(dims[..], [SIDE, SIDE, 3] | [SIDE, SIDE, 3, _]) =>
            {
                pixels = Some(rows_first(&values));
            }
            ("y", value) => labels = value.integers(),
            _ => {}
        }
    }
    let Some(pixels) = pixels else {
        return Err(fault("no bytes `X` of the sizes 32, 32, 3, n".to_owned()));
    };
    let Some(labels) = labels else {
        return Err(fault("no whole numbers `y`".to_owned()));
    };
    if labels.is_empty() {
        return Err(fault("no images".to_owned()));
    }
    if labels.len() * PIXELS != pixels.len() {
        return Err(fault(format!("{} labels `y` for {} images `X`", labels.len(), pixels.len() / PIXELS)));
    }
    let digit = |(i, label): (usize, i64)| match label {
        10 => Ok(0),
        1..=9 => Ok(label),
        _ => Err(fault(format!("label {label} of image {i}, expected 1 to 10"))),
    };
    let labels = labels.into_iter().enumerate().map(digit).collect::<Result<_>>()?;
    ImageSet::new(pixels, [3, SIDE, SIDE], labels, class_names)
}

/// Each channel of each image lies column by column in the file.
fn rows_first(values: &[u8]) -> Vec<u8> {
    let mut pixels = vec![0; values.len()];
    let area = SIDE * SIDE;
    for (from, to) in values.chunks_exact(area).zip(pixels.chunks_exact_mut(area)) {
        for (column, values) in from.chunks_exact(SIDE).enumerate() {
            for (row, &value) in values.iter().enumerate() {
                to[row * SIDE + column] = value;
            }
        }
    }
    pixels
}
