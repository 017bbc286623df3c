//! Cars196: pictures in one folder, and a struct array of annotations in a MAT-file \[krause2013\].
//!
//! `annotations` has for each picture `relative_im_path`, the corners `bbox_x1`, `bbox_y1`, `bbox_x2`, `bbox_y2`,
//! counted from 1 and inclusive, `class` from 1, and `test`; `class_names` are cells. The usual zero-shot protocol
//! takes the first 98 models of all pictures for training.

use std::{path::Path, sync::Arc};

use super::{
    Opened, Parts, Set,
    contents::{Contents, find},
};
use crate::{
    BoundingBox, Error, Record, Result,
    file_set::numbers,
    format::mat::{self, Value},
};

const ANNOTATIONS: &str = "cars_annos.mat";

pub(super) fn open(folder: &Path) -> Result<Opened> {
    let path = find(folder, ANNOTATIONS).unwrap_or_else(|| folder.join(ANNOTATIONS));
    let fault = |why: String| Error::Corrupt {
        path: path.clone(),
        offset: 128, // where the variables begin
        why,
        remedy: "give the cars_annos.mat that belongs to car_ims.tgz",
    };
    let (mut annotations, mut class_names) = (None, Vec::new());
    for variable in mat::read(&path)? {
        match (variable.name.as_str(), variable.value) {
            ("annotations", Value::Struct { fields, values, .. }) => annotations = Some((fields, values)),
            ("class_names", Value::Cells { values, .. }) => {
                for (i, value) in values.iter().enumerate() {
                    let name =
                        value.text().ok_or_else(|| fault(format!("class name {} is no text", i + 1)))?;
                    class_names.push(name.to_owned());
                }
            }
            _ => {}
        }
    }
    let Some((fields, values)) = annotations else {
        return Err(fault("no struct `annotations`".to_owned()));
    };
    let column = |name: &str| {
        let found = fields.iter().position(|field| field == name);
        found.ok_or_else(|| fault(format!("no field `{name}` in `annotations`")))
    };
    let (at_path, at_class, at_test) = (column("relative_im_path")?, column("class")?, column("test")?);
    let corners = [column("bbox_x1")?, column("bbox_y1")?, column("bbox_x2")?, column("bbox_y2")?];
    let (mut records, mut official) = (Vec::new(), (Vec::new(), Vec::new()));
    for (i, row) in values.chunks_exact(fields.len()).enumerate() {
        let of = |name: &str, expected: &str| {
            fault(format!("{name} of annotation {}, expected {expected}", i + 1))
        };
        let number = |at: usize| row[at].integer().ok_or_else(|| of(&fields[at], "a whole number"));
        let path = row[at_path].text().ok_or_else(|| of("relative_im_path", "text"))?.to_owned();
        let class = number(at_class)?;
        let label = class - 1;
        if !numbers(label, &class_names) {
            return Err(of(&format!("class {class}"), &format!("1 to {}", class_names.len())));
        }
        match number(at_test)? {
            0 => official.0.push(records.len()),
            1 => official.1.push(records.len()),
            _ => return Err(of("test", "0 or 1")),
        }
        let mut ends = [0u32; 4];
        for (end, at) in ends.iter_mut().zip(corners) {
            *end = u32::try_from(number(at)?)
                .ok()
                .filter(|&n| n > 0)
                .ok_or_else(|| of(&fields[at], "at least 1"))?;
        }
        let [x1, y1, x2, y2] = ends;
        if x2 < x1 || y2 < y1 {
            return Err(of("the box", "a lower right corner below and right of the upper left one"));
        }
        let crop = BoundingBox { x: x1 - 1, y: y1 - 1, width: x2 - x1 + 1, height: y2 - y1 + 1 };
        records.push(Record { path, label, group: None, crop: Some(crop) });
    }
    let contents = Contents::open(folder, "car_ims.tgz", "car_ims")?;
    let set = Set::OnDemand(Arc::new(contents.files(records, class_names, Vec::new())?));
    Ok(Opened { parts: Parts::Whole { set, official: Some(official) }, unlabelled: None })
}
