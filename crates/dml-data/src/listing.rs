//! Lists of images in a CSV file: `path` and `label`, and where there are any `split`, `group` and a bounding box.
//!
//! ```csv
//! path,label,split,group,x,y,width,height
//! birds/1.jpg,sparrow,train,songbird,10,20,100,80
//! ```
//!
//! The first line names the columns, in any order. Paths are relative to the file, unless they begin at the root.

use std::{collections::BTreeMap, io::Read, path::Path};

use crate::{BoundingBox, Error, FileSet, Record, Result, file_set::numbered};

/// What a list holds.
#[derive(Debug)]
pub struct Listing {
    /// All images, in the order of the list. Classes and groups are numbered by name, as numbers if all are.
    pub set: FileSet,
    /// The images of each split, ascending; empty where the list has no such column.
    pub splits: BTreeMap<String, Vec<usize>>,
}

const COLUMNS: [&str; 8] = ["path", "label", "split", "group", "x", "y", "width", "height"];
const MAX_BYTES: u64 = 1 << 30;

impl Listing {
    /// Reads a list.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read; [`Error::Line`] names the line and what is wrong with it: a
    /// column that is missing, repeated or unknown, an empty path or label, a number that is none, a box that is
    /// not complete or empty; a list without images, or of more than 1 GiB.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = std::fs::File::open(path).map_err(Error::io(path, "open this file"))?;
        Self::from_reader(file, path)
    }

    /// Reads a list from memory; `path` is for messages, and its folder is where relative paths begin.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    /// # Examples
    /// ```
    /// use dml_data::{Listing, Source};
    /// let text = "label,path,split\nsparrow,1.jpg,train\nowl,2.jpg,test\n";
    /// let listing = Listing::parse(text.as_bytes(), "birds/list.csv".as_ref())?;
    /// assert_eq!((listing.set.class_names()[0].as_str(), listing.set.labels()), ("owl", &[1, 0][..]));
    /// assert_eq!(listing.splits["test"], [1]);
    /// # Ok::<(), dml_data::Error>(())
    /// ```
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        Self::from_reader(bytes, path)
    }

    fn from_reader(reader: impl Read, path: &Path) -> Result<Self> {
        let fault = |line: u64, why: String| Error::Line {
            path: path.to_owned(),
            line,
            why,
            remedy: "see the documentation of `Listing` for the columns",
        };
        let mut csv = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(reader.take(MAX_BYTES + 1));
        let broken = |e: csv::Error| {
            let line = e.position().map_or(1, csv::Position::line);
            match e.into_kind() {
                csv::ErrorKind::Io(e) => Error::io(path, "read this file")(e),
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    fault(line, format!("{len} columns, expected {expected_len} as in the first line"))
                }
                csv::ErrorKind::Utf8 { .. } => fault(line, "text that is not UTF-8".to_owned()),
                _ => fault(line, "text that is not CSV".to_owned()),
            }
        };
        let header = csv.headers().map_err(broken)?.clone();
        let mut columns = BTreeMap::new();
        for (i, name) in header.iter().enumerate() {
            let name = name.trim_start_matches('\u{feff}');
            if !COLUMNS.contains(&name) {
                return Err(fault(
                    1,
                    format!("unknown column `{name}`, expected some of {}", COLUMNS.join(", ")),
                ));
            }
            if columns.insert(name, i).is_some() {
                return Err(fault(1, format!("column `{name}` twice")));
            }
        }
        for needed in ["path", "label"] {
            if !columns.contains_key(needed) {
                return Err(fault(1, format!("no column `{needed}`")));
            }
        }
        let in_box: Vec<&str> =
            ["x", "y", "width", "height"].into_iter().filter(|c| columns.contains_key(c)).collect();
        if !in_box.is_empty() && in_box.len() < 4 {
            return Err(fault(
                1,
                format!("the columns {} only, expected x, y, width and height", in_box.join(", ")),
            ));
        }
        let mut rows = Vec::new();
        for row in csv.records() {
            let row = row.map_err(broken)?;
            let line = row.position().map_or(0, csv::Position::line);
            let field = |name: &str| columns.get(name).and_then(|&i| row.get(i)).unwrap_or_default();
            for needed in ["path", "label"] {
                if field(needed).is_empty() {
                    return Err(fault(line, format!("an empty {needed}")));
                }
            }
            if columns.contains_key("group") && field("group").is_empty() {
                return Err(fault(line, "an empty group, expected one for every image".to_owned()));
            }
            let crop = match ["x", "y", "width", "height"].map(field) {
                ["", "", "", ""] => None,
                texts => {
                    let mut values = [0u32; 4];
                    for ((value, text), name) in
                        values.iter_mut().zip(texts).zip(["x", "y", "width", "height"])
                    {
                        *value = text.parse().map_err(|_| {
                            fault(line, format!("{name} is `{text}`, expected a whole number"))
                        })?;
                    }
                    let [x, y, width, height] = values;
                    if width == 0 || height == 0 {
                        return Err(fault(
                            line,
                            "an empty box, expected width and height of at least 1".to_owned(),
                        ));
                    }
                    Some(BoundingBox { x, y, width, height })
                }
            };
            let [path, label, split, group] =
                ["path", "label", "split", "group"].map(|name| field(name).to_owned());
            rows.push((path, label, split, group, crop));
        }
        // What lies beyond was not read, and the last row may have been cut.
        if csv.position().byte() > MAX_BYTES {
            return Err(fault(csv.position().line(), format!("more than the {MAX_BYTES} bytes allowed")));
        }
        if rows.is_empty() {
            return Err(fault(1, "a list without images".to_owned()));
        }
        let (classes, class_names) = numbered(rows.iter().map(|row| row.1.as_str()));
        let (groups, group_names) =
            numbered(rows.iter().map(|row| row.3.as_str()).filter(|group| !group.is_empty()));
        let mut splits: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut records = Vec::with_capacity(rows.len());
        for (i, (path, label, split, group, crop)) in rows.iter().enumerate() {
            if !split.is_empty() {
                splits.entry(split.clone()).or_default().push(i);
            }
            let group = groups.get(group.as_str()).copied();
            records.push(Record { path: path.clone(), label: classes[label.as_str()], group, crop: *crop });
        }
        let root = path.parent().unwrap_or(Path::new(""));
        Ok(Self { set: FileSet::new(root, records, class_names, group_names)?, splits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;

    fn parse(text: &str) -> Result<Listing> {
        Listing::parse(text.as_bytes(), Path::new("sets/list.csv"))
    }

    #[test]
    fn columns_come_in_any_order() -> Result<()> {
        let text = "x,y,width,height,label,group,split,path\n\
                    1,2,3,4,10,b,train,\"a, b.jpg\"\n\
                    ,,,,9,a,query,c.jpg\n5,6,7,8,10,b,train,/abs/d.jpg\n";
        let Listing { set, splits } = parse(text)?;
        assert_eq!(set.class_names(), ["9", "10"]); // as numbers
        assert_eq!(set.labels(), [1, 0, 1]);
        assert_eq!(
            (set.groups(), set.group_names()),
            (Some(&[1, 0, 1][..]), &["a".to_owned(), "b".to_owned()][..])
        );
        assert_eq!(set.name(0).unwrap(), "sets/a, b.jpg");
        assert_eq!(set.name(2).unwrap(), "/abs/d.jpg");
        assert_eq!(splits, BTreeMap::from([("query".to_owned(), vec![1]), ("train".to_owned(), vec![0, 2])]));
        Ok(())
    }

    #[test]
    fn quotes_line_ends_and_a_mark_of_the_byte_order_are_those_of_csv() -> Result<()> {
        let plain = "path,label\na.jpg,owl\nb.jpg,kite\n";
        let same = [
            plain.replace('\n', "\r\n"),
            plain.replace('\n', "\r"),
            format!("\u{feff}{plain}"),
            "\u{feff}\"path\",\"label\"\r\n\"a.jpg\",\"owl\"\r\n\"b.jpg\",\"kite\"\r\n".to_owned(),
            "path, label\n\n a.jpg,owl \n\nb.jpg,kite".to_owned(),
        ];
        for text in same {
            let set = parse(&text)?.set;
            let names = [0, 1].map(|i| set.name(i).unwrap());
            assert_eq!(names, ["sets/a.jpg", "sets/b.jpg"], "{text:?}");
            assert_eq!(
                (set.class_names(), set.labels()),
                (&["kite", "owl"].map(String::from)[..], &[1, 0][..])
            );
        }
        let odd = "path,label\n\"say \"\"a\"\",\n1.jpg\",\"x,y\"\n";
        assert_eq!(parse(odd)?.set.name(0).unwrap(), "sets/say \"a\",\n1.jpg");
        // A quote that is not closed swallows the rest.
        let open = parse(&format!("{odd}\"open.jpg,owl\nb.jpg,kite\n")).unwrap_err().to_string();
        assert!(open.starts_with("sets/list.csv:4: 1 columns, expected 2 as in the first line; "), "{open}");
        Ok(())
    }

    #[test]
    fn mistakes_are_named_by_line() {
        let remedy = "see the documentation of `Listing` for the columns";
        let cases = [
            ("", "1: no column `path`"),
            ("path\n", "1: no column `label`"),
            ("path,label\n", "1: a list without images"),
            ("path,label,label\n", "1: column `label` twice"),
            ("path,label,x\n", "1: the columns x only, expected x, y, width and height"),
            (
                "path,class\n",
                "1: unknown column `class`, expected some of path, label, split, group, x, y, width, height",
            ),
            ("path,label\na,b\nc,\n", "3: an empty label"),
            ("path,label\na,b\nc\n", "3: 1 columns, expected 2 as in the first line"),
            ("path,label,group\na,b,\n", "2: an empty group, expected one for every image"),
            ("path,label,x,y,width,height\na,b,1,2,3,\n", "2: height is ``, expected a whole number"),
            ("path,label,x,y,width,height\na,b,1,-2,3,4\n", "2: y is `-2`, expected a whole number"),
            (
                "path,label,x,y,width,height\na,b,1,2,0,4\n",
                "2: an empty box, expected width and height of at least 1",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(
                parse(text).unwrap_err().to_string(),
                format!("sets/list.csv:{message}; {remedy}"),
                "{text}"
            );
        }
        let latin = Listing::parse(b"path,label\n\xff,b\n", Path::new("l")).unwrap_err().to_string();
        assert!(latin.contains("text that is not UTF-8"), "{latin}");
    }
}
