//! In-shop Clothes Retrieval: training, query and gallery pictures by one list, garments by another's side
//! \[liu2016fashion\].
//!
//! `list_eval_partition.txt` (number of rows, column names, then `image_name item_id evaluation_status`) and
//! `list_bbox_inshop.txt` (the same two lines, then `image_name clothes_type pose_type x_1 y_1 x_2 y_2`). A class is
//! an item; its group is the kind of garment in the path, `WOMEN/Dresses`. Queries are looked up in the gallery.

use std::{collections::HashMap, path::Path, sync::Arc};

use super::{
    Opened, Parts, Set, Subset,
    contents::{Contents, List, find},
};
use crate::{BoundingBox, Record, Result, file_set::numbered};

pub(super) fn open(folder: &Path) -> Result<Opened> {
    let list = |name: &str| List::read(&find(folder, name).unwrap_or_else(|| folder.join(name)));
    let (partition, boxes) = (list("list_eval_partition.txt")?, list("list_bbox_inshop.txt")?);
    let rows = partition.rows::<3>(2)?;
    let announced = partition.announced()?;
    if announced != rows.len() {
        return Err(partition.fault(1, format!("{announced} rows announced, {} there", rows.len())));
    }
    let mut crops = HashMap::new();
    for (line, [name, _, _, x1, y1, x2, y2]) in boxes.rows(2)? {
        let mut ends = [0u32; 4];
        for (end, text) in ends.iter_mut().zip([x1, y1, x2, y2]) {
            *end = boxes.number(line, text)?;
        }
        let [x1, y1, x2, y2] = ends;
        if x2 <= x1 || y2 <= y1 {
            return Err(boxes.fault(line, "an empty box".to_owned()));
        }
        crops.insert(name, BoundingBox { x: x1, y: y1, width: x2 - x1, height: y2 - y1 });
    }
    let (classes, class_names) = numbered(rows.iter().map(|(_, row)| row[1]));
    let (groups, group_names) = numbered(rows.iter().map(|(_, row)| kind(row[0])));
    let (mut train, mut query, mut gallery) = (Vec::new(), Vec::new(), Vec::new());
    let mut records = Vec::with_capacity(rows.len());
    for (i, (line, [path, item, status])) in rows.iter().enumerate() {
        match *status {
            "train" => train.push(i),
            "query" => query.push(i),
            "gallery" => gallery.push(i),
            _ => return Err(partition.fault(*line, format!("`{status}`, expected train, query or gallery"))),
        }
        records.push(Record {
            path: (*path).to_owned(),
            label: classes[item],
            group: Some(groups[kind(path)]),
            crop: crops.get(path).copied(),
        });
    }
    let contents = Contents::open(folder, "img.zip", "img")?;
    let set = Set::OnDemand(Arc::new(contents.files(records, class_names, group_names)?));
    let part = |indices| Subset { set: set.clone(), indices };
    let parts = Parts::Divided { train: part(train), test: part(query), gallery: Some(part(gallery)) };
    Ok(Opened { parts, unlabelled: None })
}

/// `WOMEN/Dresses` of `img/WOMEN/Dresses/id_00000002/02_1_front.jpg`.
fn kind(path: &str) -> &str {
    let path = path.strip_prefix("img/").unwrap_or(path);
    let ends = path.match_indices('/').nth(1).or_else(|| path.match_indices('/').next());
    ends.map_or("", |(end, _)| &path[..end])
}
