//! CIFAR-10 and CIFAR-100: as many training files as there are, and one of test images \[krizhevsky2009\].

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use super::{Opened, Set, contents};
use crate::{
    Dataset, Error, Format, ImageSet, Result, archive,
    format::{
        FETCH_AGAIN,
        cifar::{self, Records, Variant},
    },
};

/// Of all files that are read together.
const MAX_BYTES: u64 = 1 << 30;

pub(super) fn open(dataset: &Dataset, folder: &Path) -> Result<Opened> {
    let variant = if dataset.format == Format::Cifar10 { Variant::Cifar10 } else { Variant::Cifar100 };
    let root = contents::root_of(dataset.format).unwrap_or_default();
    let name = dataset.files.first().map(|file| file.name.as_str()).unwrap_or_default();
    let archive = folder.join(name);
    let wanted = |name: &str| {
        let inside = name.strip_prefix(root).and_then(|name| name.strip_prefix('/'));
        inside.is_some_and(|name| name.ends_with(".bin") || name.ends_with("_names.txt"))
    };
    let (place, files) = if folder.join(root).is_dir() {
        (folder.join(root), in_folder(folder, root, &wanted)?)
    } else {
        (archive.clone(), archive::read(&archive, MAX_BYTES, &wanted)?)
    };
    let mut train = Records::default();
    let mut test = Records::default();
    for (path, bytes) in &files {
        let file = path.rsplit('/').next().unwrap_or_default();
        let part = match file {
            "train.bin" => &mut train,
            "test.bin" | "test_batch.bin" => &mut test,
            _ if file.starts_with("data_batch_") && file.ends_with(".bin") => &mut train,
            _ => continue,
        };
        part.append(cifar::parse(bytes, variant, &place.join(path))?);
    }
    let names = |file: &str| -> Option<Vec<String>> {
        let text = String::from_utf8(files.get(&format!("{root}/{file}"))?.clone()).ok()?;
        Some(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    };
    let classes = match names("fine_label_names.txt") {
        Some(names) if names.len() == dataset.n_classes() => names,
        _ if dataset.classes.is_empty() => (0..dataset.n_classes()).map(|i| i.to_string()).collect(),
        _ => dataset.classes.clone(),
    };
    let set = |records: Records, what: &str| {
        if records.labels.is_empty() {
            return Err(Error::Archive {
                path: place.clone(),
                member: format!("{root}/{what}"),
                why: "is absent".to_owned(),
                remedy: FETCH_AGAIN,
            });
        }
        let labels = records.labels.into_iter().map(i64::from).collect();
        let set = ImageSet::new(records.pixels, [3, 32, 32], labels, classes.clone())?;
        let groups: Vec<i64> = records.groups.into_iter().map(i64::from).collect();
        Ok(Set::Memory(Arc::new(if groups.is_empty() { set } else { set.with_groups(groups)? })))
    };
    let (first, second) = match variant {
        Variant::Cifar10 => ("data_batch_1.bin", "test_batch.bin"),
        Variant::Cifar100 => ("train.bin", "test.bin"),
    };
    Ok(Opened::divided(set(train, first)?, set(test, second)?))
}

fn in_folder(folder: &Path, root: &str, wanted: &dyn Fn(&str) -> bool) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let at = folder.join(root);
    for entry in fs::read_dir(&at).map_err(Error::io(&at, "list this folder"))? {
        let path = entry.map_err(Error::io(&at, "list this folder"))?.path();
        let name = format!("{root}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        if wanted(&name) {
            files.insert(name, fs::read(&path).map_err(Error::io(&path, "read this file"))?);
        }
    }
    Ok(files)
}
