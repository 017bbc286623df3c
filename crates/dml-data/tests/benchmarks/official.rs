//! Benchmark sets in small files of exactly their official layout; real images where they may be passed on.
//!
//! The layouts are those of the publishers, cited at each reader and in `datasets/manifest.toml`.
#![allow(dead_code, reason = "not every test needs all of them")]

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use dml_data::{Benchmark, benchmark};
use flate2::{Compression, write::GzEncoder};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A folder of data sets with one set in it.
pub struct Data {
    pub dir: tempfile::TempDir,
    pub set: String,
}

impl Data {
    pub fn new(set: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(set)).unwrap();
        Self { dir, set: set.to_owned() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(&self.set).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub fn copy(&self, from: &str, name: &str) {
        fs::copy(fixture(from), self.path(name)).unwrap();
    }

    pub fn put(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).unwrap();
    }

    pub fn tar_gz(&self, name: &str, files: &[(impl AsRef<str>, Vec<u8>)]) {
        let file = File::create(self.path(name)).unwrap();
        let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name.as_ref(), &content[..]).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
    }

    pub fn zip(&self, name: &str, files: &[(impl AsRef<str>, Vec<u8>)]) {
        let mut zip = zip::ZipWriter::new(File::create(self.path(name)).unwrap());
        let stored =
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for (name, content) in files {
            zip.start_file(name.as_ref(), stored).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap();
    }

    pub fn open(&self) -> Benchmark {
        benchmark(&self.set, self.dir.path()).unwrap()
    }

    pub fn error(&self) -> String {
        let message = benchmark(&self.set, self.dir.path()).unwrap_err().to_string();
        message.replace(&self.dir.path().join(&self.set).display().to_string(), "SET")
    }
}

/// Every set of the manifest, whole.
pub fn all() -> Vec<Data> {
    let mut sets = Vec::new();
    let mut set = |name: &str, fill: &dyn Fn(&Data)| {
        let data = Data::new(name);
        fill(&data);
        sets.push(data);
    };
    for (name, from) in [("mnist", "mnist"), ("fashion-mnist", "fashion-mnist"), ("kmnist", "fashion-mnist")]
    {
        set(name, &|data| IDX.iter().for_each(|file| data.copy(&format!("excerpts/{from}/{file}"), file)));
    }
    set("cifar10", &|data| data.copy("excerpts/cifar10/cifar-10-binary.tar.gz", "cifar-10-binary.tar.gz"));
    set("cifar100", &|data| data.tar_gz("cifar-100-binary.tar.gz", &cifar100()));
    set("svhn", &|data| {
        data.copy("svhn_packed.mat", "train_32x32.mat");
        data.copy("svhn_raw.mat", "test_32x32.mat");
    });
    set("stl10", &|data| data.tar_gz("stl10_binary.tar.gz", &stl10()));
    set("omniglot", &|data| {
        for part in ["background", "evaluation"] {
            data.copy("excerpts/omniglot/images_background_small1.zip", &format!("images_{part}.zip"));
        }
    });
    set("cub200", &|data| data.tar_gz("CUB_200_2011.tgz", &cub()));
    set("cars196", &|data| {
        data.copy("cars_packed.mat", "cars_annos.mat");
        data.tar_gz("car_ims.tgz", &cars());
    });
    set("sop", &|data| {
        data.zip("Stanford_Online_Products.zip", &sop("59552 11319 12 table_final/11319_0.JPG\n"));
    });
    set("inshop", &inshop);
    sets
}

pub const IDX: [&str; 4] = [
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
];

/// Files of an archive: names and contents.
type Files = Vec<(String, Vec<u8>)>;

fn files<const N: usize>(files: [(&str, Vec<u8>); N]) -> Files {
    files.into_iter().map(|(name, content)| (name.to_owned(), content)).collect()
}

/// Value `i` of an image of class c is (i mod 251) xor c.
pub fn cifar100() -> Files {
    let record = |group: u8, label: u8| {
        let mut record = vec![group, label];
        record.extend((0..3072).map(|i| (i % 251) as u8 ^ label));
        record
    };
    let names: String = (0..100).map(|i| format!("fine_{i}\n")).collect();
    files([
        ("cifar-100-binary/coarse_label_names.txt", b"aquatic\n".to_vec()),
        ("cifar-100-binary/fine_label_names.txt", (names + "\n").into_bytes()),
        ("cifar-100-binary/test.bin", record(3, 99)),
        ("cifar-100-binary/train.bin", [record(19, 0), record(4, 49), record(4, 50)].concat()),
    ])
}

/// Channel k, row r, column c of image i.
pub fn stl10_value(i: usize, k: usize, r: usize, c: usize) -> u8 {
    (i * 31 + k * 67 + r * 5 + c * 3) as u8
}

/// Two test images, three for training, four without labels; each written column by column.
pub fn stl10() -> Files {
    let images = |range: std::ops::Range<usize>| {
        let mut bytes = Vec::with_capacity(range.len() * 3 * 96 * 96);
        for i in range {
            for k in 0..3 {
                for c in 0..96 {
                    bytes.extend((0..96).map(|r| stl10_value(i, k, r, c)));
                }
            }
        }
        bytes
    };
    files([
        ("stl10_binary/test_X.bin", images(0..2)),
        ("stl10_binary/test_y.bin", vec![10, 6]),
        ("stl10_binary/class_names.txt", b"airplane\nbird\n".to_vec()),
        ("stl10_binary/fold_indices.txt", b"0 1\n".to_vec()),
        ("stl10_binary/train_X.bin", images(2..5)),
        ("stl10_binary/train_y.bin", vec![1, 5, 6]),
        ("stl10_binary/unlabeled_X.bin", images(5..9)),
    ])
}

/// Three birds of two species and one of a species beyond the hundredth.
pub fn cub() -> Files {
    let classes: String = (1..=200).map(|i| format!("{i} {i:03}.Species_{i}\n")).collect();
    let text = |text: &str| text.as_bytes().to_vec();
    files([
        ("attributes.txt", text("1 has_bill_shape\n")),
        ("CUB_200_2011/README", text("read me\n")),
        (
            "CUB_200_2011/bounding_boxes.txt",
            text("1 60.0 27.0 325.0 304.0\n2 0.0 1.0 2.0 3.0\n3 5.0 6.0 7.0 8.0\n"),
        ),
        ("CUB_200_2011/classes.txt", classes.into_bytes()),
        ("CUB_200_2011/image_class_labels.txt", text("1 1\n2 1\n3 101\n")),
        (
            "CUB_200_2011/images.txt",
            text("1 001.Species_1/A.jpg\n2 001.Species_1/B.jpg\n3 101.Species_101/C.jpg\n"),
        ),
        ("CUB_200_2011/images/001.Species_1/A.jpg", text("picture A")),
        ("CUB_200_2011/images/001.Species_1/B.jpg", text("picture B")),
        ("CUB_200_2011/images/101.Species_101/C.jpg", text("picture C")),
        ("CUB_200_2011/train_test_split.txt", text("1 0\n2 1\n3 1\n")),
    ])
}

/// Four pictures.
pub fn cars() -> Files {
    (1..=4).map(|i| (format!("car_ims/{i:06}.jpg"), vec![i; 3])).collect()
}

/// Three pictures for training, and the rows of `test`.
pub fn sop(test: &str) -> Files {
    let head = "image_id class_id super_class_id path\n";
    let train = format!(
        "{head}1 1 1 bicycle_final/1_0.JPG\n2 1 1 bicycle_final/1_1.JPG\n3 2 12 table_final/2_0.JPG\n"
    );
    files([
        ("Stanford_Online_Products/bicycle_final/1_0.JPG", b"one".to_vec()),
        ("Stanford_Online_Products/bicycle_final/1_1.JPG", b"two".to_vec()),
        ("Stanford_Online_Products/table_final/2_0.JPG", b"three".to_vec()),
        ("Stanford_Online_Products/table_final/11319_0.JPG", b"four".to_vec()),
        ("Stanford_Online_Products/Ebay_train.txt", train.into_bytes()),
        ("Stanford_Online_Products/Ebay_test.txt", format!("{head}{test}").into_bytes()),
    ])
}

/// Pictures, garments and parts.
pub const INSHOP: [(&str, &str, &str); 4] = [
    ("img/WOMEN/Dresses/id_00000002/02_1_front.jpg", "id_00000002", "train"),
    ("img/WOMEN/Dresses/id_00000002/02_2_side.jpg", "id_00000002", "train"),
    ("img/MEN/Denim/id_00000009/01_1_front.jpg", "id_00000009", "query"),
    ("img/MEN/Denim/id_00000009/01_2_side.jpg", "id_00000009", "gallery"),
];

/// The list of parts, which announces `n` rows.
pub fn inshop_partition(n: usize) -> String {
    let row = |(picture, item, part): (&str, &str, &str)| format!("{picture}      {item} {part}\n");
    format!("{n}\nimage_name item_id evaluation_status\n{}", INSHOP.map(row).concat())
}

/// All its files; the first picture has a box.
pub fn inshop(data: &Data) {
    data.put("Eval/list_eval_partition.txt", inshop_partition(4).as_bytes());
    let head = "4\nimage_name clothes_type pose_type x_1 y_1 x_2 y_2";
    data.put("Anno/list_bbox_inshop.txt", format!("{head}\n{}  3 1 50 49 208 235\n", INSHOP[0].0).as_bytes());
    data.zip("Img/img.zip", &INSHOP.map(|(picture, ..)| (picture, picture.as_bytes().to_vec())));
}
