//! CUB-200-2011: pictures in a folder per species, and lists that number them from 1 \[wah2011\].
//!
//! `images.txt` number and path · `image_class_labels.txt` number and class · `train_test_split.txt` number and 1 for
//! training · `bounding_boxes.txt` number, x, y, width, height · `classes.txt` class and name. The usual zero-shot
//! protocol takes the first 100 species of all pictures for training.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{Opened, Parts, Set, contents::Contents};
use crate::{BoundingBox, Record, Result};

const ROOT: &str = "CUB_200_2011";

pub(super) fn open(folder: &Path) -> Result<Opened> {
    let contents = Contents::open(folder, "CUB_200_2011.tgz", ROOT)?;
    let list = |name: &str| contents.list(&format!("{ROOT}/{name}.txt"));
    let (classes, images, labels) = (list("classes")?, list("images")?, list("image_class_labels")?);
    let (split, boxes) = (list("train_test_split")?, list("bounding_boxes")?);
    let (mut numbers, mut class_names) = (BTreeMap::new(), Vec::new());
    for (number, (_, name)) in classes.by_number()? {
        numbers.insert(number, class_names.len() as i64);
        class_names.push(name.to_owned());
    }
    let (labels_of, split_of) = (labels.by_number()?, split.by_number()?);
    let mut crops = BTreeMap::new();
    for (line, [number, x, y, width, height]) in boxes.rows(0)? {
        let mut values = [0; 4];
        for (value, text) in values.iter_mut().zip([x, y, width, height]) {
            // Whole numbers, written as 60.0.
            let number: f64 = boxes.number(line, text)?;
            *value = number.round() as u32; // saturates
        }
        let [x, y, width, height] = values;
        crops.insert(boxes.number::<u64>(line, number)?, BoundingBox { x, y, width, height });
    }
    let (mut records, mut official) = (Vec::new(), (Vec::new(), Vec::new()));
    for (number, (line, path)) in images.by_number()? {
        let absent = |what: &str| images.fault(line, format!("image {number} has no {what}"));
        let &(at, class) = labels_of.get(&number).ok_or_else(|| absent("line in image_class_labels.txt"))?;
        let class: u64 = labels.number(at, class)?;
        let Some(&label) = numbers.get(&class) else {
            return Err(labels.fault(at, format!("class {class}, which classes.txt lacks")));
        };
        let &(at, trains) = split_of.get(&number).ok_or_else(|| absent("line in train_test_split.txt"))?;
        match trains {
            "1" => official.0.push(records.len()),
            "0" => official.1.push(records.len()),
            _ => return Err(split.fault(at, format!("`{trains}`, expected 1 for training or 0 for test"))),
        }
        let path = format!("{ROOT}/images/{path}");
        records.push(Record { path, label, group: None, crop: crops.get(&number).copied() });
    }
    let set = Set::OnDemand(Arc::new(contents.files(records, class_names, Vec::new())?));
    Ok(Opened { parts: Parts::Whole { set, official: Some(official) }, unlabelled: None })
}
