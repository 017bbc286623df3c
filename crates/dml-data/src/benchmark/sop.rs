//! Stanford Online Products: a list of training and one of test pictures, whose classes differ \[song2016\].
//!
//! `Ebay_train.txt` and `Ebay_test.txt`: a line of column names, then `image_id class_id super_class_id path`. The
//! super-classes are the groups.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{Opened, Parts, Set, Subset, contents::Contents};
use crate::{Record, Result, file_set::numbered};

const ROOT: &str = "Stanford_Online_Products";

pub(super) fn open(folder: &Path) -> Result<Opened> {
    let contents = Contents::open(folder, "Stanford_Online_Products.zip", ROOT)?;
    let lists =
        [contents.list(&format!("{ROOT}/Ebay_train.txt"))?, contents.list(&format!("{ROOT}/Ebay_test.txt"))?];
    let rows = [lists[0].rows::<4>(1)?, lists[1].rows::<4>(1)?];
    for (list, rows) in lists.iter().zip(&rows) {
        for (line, [_, class, group, _]) in rows {
            list.number::<u64>(*line, class)?;
            list.number::<u64>(*line, group)?;
        }
    }
    let all = || rows.iter().flatten().map(|(_, row)| row);
    let (classes, class_names) = numbered(all().map(|row| row[1]));
    let (groups, numbers) = numbered(all().map(|row| row[2]));
    // A super-class is named by the folder of its pictures, `bicycle_final`.
    let mut group_names: BTreeMap<&str, &str> = BTreeMap::new();
    for row in all() {
        let folder = row[3].split_once('/').map_or(row[2], |(folder, _)| folder);
        group_names.entry(row[2]).or_insert(folder.trim_end_matches("_final"));
    }
    let group_names = numbers.iter().map(|number| group_names[number.as_str()].to_owned()).collect();
    let records = all()
        .map(|[_, class, group, path]| Record {
            path: format!("{ROOT}/{path}"),
            label: classes[class],
            group: Some(groups[group]),
            crop: None,
        })
        .collect();
    let set = Set::OnDemand(Arc::new(contents.files(records, class_names, group_names)?));
    let (n_train, n) = (rows[0].len(), set.source().len());
    let part = |indices: std::ops::Range<usize>| Subset { set: set.clone(), indices: indices.collect() };
    let parts = Parts::Divided { train: part(0..n_train), test: part(n_train..n), gallery: None };
    Ok(Opened { parts, unlabelled: None })
}
