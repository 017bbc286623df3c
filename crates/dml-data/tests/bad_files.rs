//! Every file of every benchmark set, spoiled in every way: an error that names the file, never a panic; and folders
//! and labels as people have them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};

use dml_data::{
    Benchmark, FileSet, MPerClass, MPerClassConfig, Result, Set, Source, TrainSize, benchmark, split,
};
use official::Data;

#[path = "benchmarks/official.rs"]
mod official;

/// What may lie in the place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoiled {
    Absent,
    Empty,
    Folder,
    Page,
    Noise,
    Zeros,
    Half,
}

const WAYS: [Spoiled; 7] = [
    Spoiled::Absent,
    Spoiled::Empty,
    Spoiled::Folder,
    Spoiled::Page,
    Spoiled::Noise,
    Spoiled::Zeros,
    Spoiled::Half,
];

impl Spoiled {
    fn put(self, path: &Path, good: &[u8]) {
        fs::remove_file(path).unwrap();
        match self {
            Self::Absent => {}
            Self::Empty => fs::write(path, b"").unwrap(),
            Self::Folder => fs::create_dir(path).unwrap(),
            Self::Page => {
                fs::write(path, b"<!doctype html>\n<title>404</title>\nno such\r\n\n file\n").unwrap()
            }
            Self::Noise => {
                let noise = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 21) as u8);
                fs::write(path, noise.collect::<Vec<u8>>()).unwrap();
            }
            Self::Zeros => fs::write(path, vec![0; good.len()]).unwrap(),
            Self::Half => fs::write(path, &good[..good.len() / 2]).unwrap(),
        }
    }
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.append(&mut files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// What was unpacked beside the archives goes.
fn pack_up(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "unpacked") {
            fs::remove_dir_all(path).unwrap();
        } else if path.extension().is_some_and(|e| e == "lock") {
            fs::remove_file(path).unwrap();
        }
    }
}

/// Every image of a set.
fn read_all(opened: &Benchmark) -> Result<()> {
    let protocols = [&opened.closed_set, &opened.zero_shot].into_iter().flatten();
    let sets = protocols.flat_map(|protocol| [&protocol.train.set, &protocol.test.set]);
    for set in sets.chain(&opened.unlabelled) {
        let source: &dyn Source = Set::source(set);
        (0..source.len()).try_for_each(|i| source.item(i).map(|_| ()))?;
    }
    Ok(())
}

/// Opens the set with each file spoiled in each way; `needed` says for which of them that must be an error.
fn attack(data: &Data, needed: impl Fn(&str, Spoiled) -> bool) {
    let folder = data.dir.path().join(&data.set);
    read_all(&data.open()).unwrap();
    pack_up(&folder);
    for path in files(&folder) {
        let good = fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        for way in WAYS {
            way.put(&path, &good);
            let outcome = benchmark(&data.set, data.dir.path()).and_then(|opened| read_all(&opened));
            let what = format!("{}, {name} {way:?}", data.set);
            match outcome.map_err(|error| error.to_string()) {
                Ok(()) => assert!(!needed(name, way), "{what}: no error"),
                Err(message) if needed(name, way) => assert!(message.contains(name), "{what}: {message}"),
                Err(message) => assert!(message.contains(&data.set), "{what}: {message}"),
            }
            if way == Spoiled::Folder {
                fs::remove_dir(&path).unwrap();
            }
            fs::write(&path, &good).unwrap();
            pack_up(&folder);
        }
    }
    read_all(&data.open()).unwrap();
}

#[test]
fn every_file_of_every_set_is_named_when_it_is_spoiled() {
    let sets = official::all();
    assert_eq!(sets.len(), 12);
    for data in sets {
        // A text of two columns can be cut between two lines.
        attack(&data, |name, way| !(name == "list_bbox_inshop.txt" && way == Spoiled::Half));
    }
}

#[test]
fn so_is_what_was_unpacked_by_hand() {
    for (set, archive, members) in [
        ("cifar100", "cifar-100-binary.tar.gz", official::cifar100()),
        ("stl10", "stl10_binary.tar.gz", official::stl10()),
        ("cub200", "CUB_200_2011.tgz", official::cub()),
        ("sop", "Stanford_Online_Products.zip", official::sop("59552 11319 12 table_final/11319_0.JPG\n")),
    ] {
        let data = Data::new(set);
        for (name, content) in members {
            data.put(&name, &content);
        }
        assert!(!data.path(archive).exists());
        let needed = |name: &str, way: Spoiled| match name {
            // Read where there are any.
            "attributes.txt"
            | "README"
            | "class_names.txt"
            | "fold_indices.txt"
            | "coarse_label_names.txt"
            | "fine_label_names.txt" => false,
            // A set with fewer unlabelled images, or none, says that it is a part; as many zeros are black images.
            "unlabeled_X.bin" => matches!(way, Spoiled::Empty | Spoiled::Page | Spoiled::Noise),
            // Pictures are decoded by whoever needs them.
            _ if name.to_lowercase().ends_with(".jpg") => matches!(way, Spoiled::Absent | Spoiled::Folder),
            // A list that was cut may end before the picture or class that another list tells of.
            _ if name.ends_with(".txt") => way != Spoiled::Half,
            // As many zeros are records of class 0, and black images.
            "train.bin" | "test.bin" => way != Spoiled::Zeros,
            "train_X.bin" | "test_X.bin" => !matches!(way, Spoiled::Zeros | Spoiled::Half),
            _ => true,
        };
        attack(&data, needed);
    }
}

#[test]
fn idx_files_without_images_are_named() {
    let data = Data::new("mnist");
    official::IDX.iter().for_each(|file| data.copy(&format!("excerpts/mnist/{file}"), file));
    data.put(official::IDX[2], &[0, 0, 8, 3, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 28]);
    data.put(official::IDX[3], &[0, 0, 8, 1, 0, 0, 0, 0]);
    assert_eq!(
        data.error(),
        "SET/t10k-images-idx3-ubyte.gz: byte 4: the header says that there are no images, expected at least one; \
         fetch the file again"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_unicode_are_named() {
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes;
    let folder = tempfile::tempdir().unwrap();
    let class = folder.path().join("a");
    fs::create_dir(&class).unwrap();
    fs::write(class.join("1.jpg"), b"x").unwrap();
    fs::write(class.join(odd(b"n\xf6tes.txt")), b"no picture").unwrap();
    assert_eq!(FileSet::image_folder(folder.path()).unwrap().len(), 1);
    fs::write(class.join(odd(b"\xff.jpg")), b"x").unwrap();
    let message = FileSet::image_folder(folder.path()).unwrap_err().to_string();
    assert!(message.contains("a/\u{fffd}.jpg: its name is not Unicode; "), "{message}");
    fs::remove_file(class.join(odd(b"\xff.jpg"))).unwrap();
    fs::create_dir(folder.path().join(odd(b"\xff"))).unwrap();
    let message = FileSet::image_folder(folder.path()).unwrap_err().to_string();
    assert!(message.contains("\u{fffd}: its name is not Unicode; "), "{message}");
}

#[cfg(unix)]
#[test]
fn folders_named_as_pictures_and_links_in_a_circle() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("a/b.jpg")).unwrap();
    fs::write(folder.path().join("a/b.jpg/1.png"), b"x").unwrap();
    let set = FileSet::image_folder(folder.path()).unwrap();
    assert_eq!((set.len(), set.name(0).unwrap().ends_with("a/b.jpg/1.png")), (1, true));
    std::os::unix::fs::symlink("..", folder.path().join("a/again")).unwrap();
    let message = FileSet::image_folder(folder.path()).unwrap_err().to_string();
    assert!(message.contains("a/again: cannot list this folder"), "{message}");
}

#[test]
fn a_set_of_one_class_can_be_split_but_not_compared() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("only")).unwrap();
    for i in 0..4 {
        fs::write(folder.path().join(format!("only/{i}.jpg")), b"x").unwrap();
    }
    let set = FileSet::image_folder(folder.path())?;
    let parts = split::closed_set(set.labels(), TrainSize::Fraction(0.5), 0)?;
    assert_eq!((parts.train.len(), parts.test.len()), (2, 2));
    assert_eq!(
        split::zero_shot(set.labels(), &[0]).unwrap_err().to_string(),
        "zero_shot: `train_classes` is [0], expected some of the classes, so that others are left to test on"
    );
    let config = MPerClassConfig { classes: 2, per_class: 2, ..Default::default() };
    assert_eq!(
        MPerClass::new(set.labels(), &parts.train, config, 0).unwrap_err().to_string(),
        "MPerClass::new: `config` is 2 classes × 2 images, expected 1 to 1 classes, as many as `indices` have, and \
         at least 1 image"
    );
    Ok(())
}
