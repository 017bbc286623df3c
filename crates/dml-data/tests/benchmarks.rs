//! Every benchmark set, in small files of exactly its official layout, opened by name.
//!
//! Real images come from `fixtures/excerpts`; pixel values are those that NumPy and Pillow read from the same sets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fs::{self, File};

use dml_data::{Benchmark, BoundingBox, Completeness, ImageSet, Item, Source, Subset, benchmark};
use official::{
    Data, IDX, INSHOP, cars, cifar100, cub, fixture, inshop, inshop_partition, sop, stl10, stl10_value,
};

#[path = "benchmarks/official.rs"]
mod official;

fn memory(subset: &Subset) -> &ImageSet {
    subset.set.images().unwrap()
}

/// Value at row `r`, column `c` of channel `k` of image `i`.
fn pixel(set: &ImageSet, (i, k, r, c): (usize, usize, usize, usize)) -> u8 {
    let [_, h, w] = set.shape();
    set.image(i).unwrap()[(k * h + r) * w + c]
}

fn sum(pixels: &[u8]) -> u64 {
    pixels.iter().map(|&p| u64::from(p)).sum()
}

fn partial(of: &str, what: &str) -> Completeness {
    Completeness::Partial { of: of.into(), what: what.into() }
}

fn bytes_of(source: &dyn Source, i: usize) -> Vec<u8> {
    let Item::Encoded { bytes, .. } = source.item(i).unwrap() else { panic!() };
    bytes.into_owned()
}

fn crop_of(source: &dyn Source, i: usize) -> Option<BoundingBox> {
    let Item::Encoded { crop, .. } = source.item(i).unwrap() else { panic!() };
    crop
}

#[test]
fn mnist_and_its_kin() {
    // KMNIST has the same layout; here the files of Fashion-MNIST stand for its own.
    for (set, from) in [("mnist", "mnist"), ("fashion-mnist", "fashion-mnist"), ("kmnist", "fashion-mnist")] {
        let data = Data::new(set);
        IDX.iter().for_each(|name| data.copy(&format!("excerpts/{from}/{name}"), name));
        let set_of_20 = data.open();
        let what = "train has 20 images of 60000; test has 20 images of 10000";
        assert_eq!(set_of_20.completeness, partial(set, what));
        let closed = set_of_20.closed_set.unwrap();
        let (train, test) = (memory(&closed.train), memory(&closed.test));
        assert_eq!((train.len(), test.len(), train.shape()), (20, 20, [1, 28, 28]));
        let points = [(0, 5, 12), (0, 14, 13), (1, 10, 10), (19, 20, 14), (7, 9, 16)];
        let at = |set: &ImageSet| points.map(|(i, r, c)| pixel(set, (i, 0, r, c)));
        if from == "mnist" {
            assert_eq!(train.labels()[..10], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]);
            assert_eq!(test.labels()[..10], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]);
            assert_eq!((sum(train.pixels()), sum(test.pixels())), (461_292, 476_511));
            assert_eq!((at(train), at(test)), ([3, 81, 238, 115, 0], [0, 0, 0, 0, 115]));
        } else {
            assert_eq!(train.labels()[..10], [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]);
            assert_eq!(test.labels()[..10], [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]);
            assert_eq!((sum(train.pixels()), sum(test.pixels())), (1_123_146, 1_033_174));
            assert_eq!((at(train), at(test)), ([6, 226, 252, 89, 228], [0, 136, 0, 202, 157]));
        }
        let zero_shot = set_of_20.zero_shot.unwrap();
        assert!(zero_shot.train.labels().iter().all(|&label| label < 5));
        assert!(zero_shot.test.labels().iter().all(|&label| label >= 5));
        let (n, m) = (zero_shot.train.indices.len(), zero_shot.test.indices.len());
        let count = |set: &ImageSet, low: bool| set.labels().iter().filter(|&&l| (l < 5) == low).count();
        assert_eq!((n, m), (count(train, true), count(test, false)));
    }
}

#[test]
fn cifar10_from_the_archive_and_unpacked_with_as_many_batches_as_there_are() {
    let data = Data::new("cifar10");
    data.copy("excerpts/cifar10/cifar-10-binary.tar.gz", "cifar-10-binary.tar.gz");
    let check = |opened: Benchmark, n_train: usize| {
        let closed = opened.closed_set.unwrap();
        let (train, test) = (memory(&closed.train), memory(&closed.test));
        assert_eq!((train.len(), test.len(), train.shape()), (n_train, 10, [3, 32, 32]));
        assert_eq!(train.labels()[..10], [3, 5, 7, 7, 8, 2, 3, 0, 7, 3]);
        assert_eq!(test.labels()[..10], [8, 7, 3, 4, 4, 2, 8, 8, 6, 4]);
        assert_eq!(train.class_names()[9], "truck");
        let points = [(0, 0, 0, 0), (0, 1, 5, 20), (0, 2, 31, 3), (3, 2, 17, 8), (9, 0, 30, 1)];
        assert_eq!(points.map(|point| pixel(train, point)), [110, 98, 145, 124, 77]);
        assert_eq!(points.map(|point| pixel(test, point)), [230, 254, 232, 67, 168]);
        assert_eq!((sum(&train.pixels()[..30_720]), sum(test.pixels())), (3_608_576, 3_959_367));
    };
    check(data.open(), 10);
    // Unpacked by hand, and with a second batch of its own length.
    let file = File::open(data.path("cifar-10-binary.tar.gz")).unwrap();
    tar::Archive::new(flate2::read::GzDecoder::new(file)).unpack(data.path("")).unwrap();
    fs::remove_file(data.path("cifar-10-binary.tar.gz")).unwrap();
    let mut record = vec![6];
    record.extend([1; 3072]);
    data.put("cifar-10-batches-bin/data_batch_2.bin", &record);
    check(data.open(), 11);
    fs::remove_file(data.path("cifar-10-batches-bin/test_batch.bin")).unwrap();
    assert_eq!(
        data.error(),
        "SET/cifar-10-batches-bin: cifar-10-batches-bin/test_batch.bin: is absent; fetch the file again"
    );
    data.put("cifar-10-batches-bin/test_batch.bin", &[200; 3073]);
    assert!(data.error().ends_with("byte 0: label 200, expected one below 10; fetch the file again"));
}

#[test]
fn cifar100_has_super_classes() {
    let data = Data::new("cifar100");
    data.tar_gz("cifar-100-binary.tar.gz", &cifar100());
    let opened = data.open();
    let closed = opened.closed_set.unwrap();
    let train = memory(&closed.train);
    assert_eq!((train.labels(), Source::groups(train)), (&[0, 49, 50][..], Some(&[19, 4, 4][..])));
    assert_eq!((train.class_names()[50].as_str(), train.class_names().len()), ("fine_50", 100));
    assert_eq!(pixel(train, (1, 1, 0, 1)), (1025 % 251) as u8 ^ 49);
    let zero_shot = opened.zero_shot.unwrap();
    assert_eq!((zero_shot.train.labels(), zero_shot.test.labels()), (vec![0, 49], vec![99]));
}

#[test]
fn svhn_counts_ten_as_zero() {
    let data = Data::new("svhn");
    data.copy("svhn_packed.mat", "train_32x32.mat");
    data.copy("svhn_raw.mat", "test_32x32.mat");
    let opened = data.open();
    let closed = opened.closed_set.unwrap();
    let (train, test) = (memory(&closed.train), memory(&closed.test));
    assert_eq!((train.labels(), test.labels()), (&[1, 9, 2, 0, 0][..], &[1, 9][..]));
    assert_eq!(train.shape(), [3, 32, 32]);
    let points = [(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (3, 1, 5, 9), (4, 2, 31, 31), (4, 1, 3, 7)];
    assert_eq!(points.map(|point| pixel(train, point)), [175, 42, 81, 96, 104, 230]);
    assert_eq!((sum(train.pixels()), sum(test.pixels())), (1_928_332, 773_881));
    data.copy("cars_raw.mat", "test_32x32.mat");
    assert_eq!(
        data.error(),
        "SET/test_32x32.mat: byte 128: no bytes `X` of the sizes 32, 32, 3, n; give a file of the cropped digits, \
         train_32x32.mat or test_32x32.mat"
    );
}

#[test]
fn stl10_has_columns_first_and_unlabelled_images() {
    let data = Data::new("stl10");
    let value = stl10_value;
    data.tar_gz("stl10_binary.tar.gz", &stl10());
    for _ in 0..2 {
        // The second time from what the first unpacked; the archive may be gone.
        let opened = data.open();
        let closed = opened.closed_set.unwrap();
        let (train, test) = (memory(&closed.train), memory(&closed.test));
        assert_eq!((train.labels(), test.labels()), (&[0, 4, 5][..], &[9, 5][..]));
        assert_eq!((train.shape(), train.class_names()[7].as_str()), ([3, 96, 96], "monkey"));
        for (k, r, c) in [(0, 0, 0), (1, 95, 3), (2, 7, 95)] {
            assert_eq!(pixel(train, (1, k, r, c)), value(3, k, r, c));
            assert_eq!(pixel(test, (0, k, r, c)), value(0, k, r, c));
        }
        let unlabelled = opened.unlabelled.unwrap();
        let source = unlabelled.source();
        assert_eq!(source.len(), 4);
        let Item::Raw { pixels, channels: 3, height: 96, width: 96 } = source.item(3).unwrap() else {
            panic!()
        };
        assert_eq!(pixels[(2 * 96 + 7) * 96 + 95], value(8, 2, 7, 95));
        assert!(source.item(4).is_err());
        assert_eq!(opened.zero_shot.unwrap().test.labels(), [9, 5]);
        let what = "train has 3 images of 5000; test has 2 images of 8000; unlabelled has 4 images of 100000";
        assert_eq!(opened.completeness, partial("stl10", what));
        let _ = fs::remove_file(data.path("stl10_binary.tar.gz"));
    }
    let unpacked = "stl10_binary.tar.gz.unpacked/stl10_binary/test_y.bin";
    data.put(unpacked, &[10]);
    assert!(data.error().contains("holds 2 images"), "{}", data.error());
}

#[test]
fn omniglot_classes_are_characters_of_alphabets() {
    // The small set: one undivided archive, split by alphabet.
    let data = Data::new("omniglot-small1");
    let name = "images_background_small1.zip";
    data.copy("excerpts/omniglot/images_background_small1.zip", name);
    let opened = data.open();
    assert!(opened.closed_set.is_none());
    let zero_shot = opened.zero_shot.unwrap();
    let set = memory(&zero_shot.train);
    assert_eq!((set.len(), set.shape()), (24, [1, 105, 105]));
    let names =
        ["Balinese/character01", "Balinese/character02", "Early_Aramaic/character01", "Greek/character01"];
    assert_eq!(set.class_names()[..4], names);
    assert_eq!(Source::groups(set).unwrap()[..12], [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]);
    assert_eq!((zero_shot.train.indices.len(), zero_shot.test.indices.len()), (16, 8));
    assert_eq!((zero_shot.train.n_classes(), zero_shot.test.n_classes()), (4, 2));
    // Ink is 0: how much of it, and where it begins and ends, row by row.
    for (i, ink, first, last) in [(0, 881, (29, 64), (67, 36)), (23, 621, (21, 27), (55, 41))] {
        let image = set.image(i).unwrap();
        assert!(image.iter().all(|&p| p == 0 || p == 255));
        let at: Vec<usize> = (0..image.len()).filter(|&at| image[at] == 0).collect();
        let place = |at: usize| (at / 105, at % 105);
        assert_eq!((at.len(), place(at[0]), place(at[at.len() - 1])), (ink, first, last));
    }
    let Completeness::Partial { of, what } = opened.completeness else { panic!() };
    assert_eq!(of, "omniglot");
    assert!(
        what.starts_with("5 of the 30 background alphabets") && what.ends_with("all has 24 images of 2720")
    );

    // The whole: two archives, whose classes are numbered on.
    let data = Data::new("omniglot");
    data.copy("excerpts/omniglot/images_background_small1.zip", "images_background.zip");
    let png = fs::read(fixture("excerpts/omniglot/images_background_small1.zip")).unwrap();
    // Any drawing will do: the first stored in the excerpt, unpacked by the reader under test above.
    let drawing = {
        let mut out = std::io::Cursor::new(Vec::new());
        let image = set.image(0).unwrap().to_vec();
        let grey = image::GrayImage::from_raw(105, 105, image).unwrap();
        grey.write_to(&mut out, image::ImageFormat::Png).unwrap();
        out.into_inner()
    };
    assert!(png.len() > drawing.len());
    data.zip("images_evaluation.zip", &[("images_evaluation/Keble/character01/1_01.png", drawing.clone())]);
    let opened = data.open();
    let zero_shot = opened.zero_shot.unwrap();
    assert_eq!((zero_shot.train.n_classes(), zero_shot.test.labels()), (6, vec![6]));
    assert_eq!(memory(&zero_shot.test).class_names()[6], "Keble/character01");
    assert_eq!(memory(&zero_shot.test).image(0), set.image(0));
    data.zip("images_evaluation.zip", &[("images_evaluation/x.png", drawing)]);
    assert_eq!(
        data.error(),
        "SET/images_evaluation.zip: images_evaluation/x.png: does not lie at FOLDER/ALPHABET/CHARACTER/FILE.png; \
         fetch the file again"
    );
    data.zip("images_evaluation.zip", &[("images_evaluation/Keble/character01/1_01.png", b"no".to_vec())]);
    assert!(data.error().contains("Keble/character01/1_01.png: "), "{}", data.error());
}

#[test]
fn cub_is_split_by_species_and_officially() {
    let data = Data::new("cub200");
    data.tar_gz("CUB_200_2011.tgz", &cub());
    let opened = data.open();
    let zero_shot = opened.zero_shot.unwrap();
    assert_eq!((&zero_shot.train.indices[..], &zero_shot.test.indices[..]), (&[0, 1][..], &[2][..]));
    let closed = opened.closed_set.unwrap();
    assert_eq!((&closed.train.indices[..], &closed.test.indices[..]), (&[1, 2][..], &[0][..]));
    let source = zero_shot.train.set.source();
    assert_eq!((source.labels(), source.class_names().len()), (&[0, 0, 100][..], 200));
    assert_eq!(source.class_names()[100], "101.Species_101");
    assert_eq!(bytes_of(source, 2), b"picture C");
    assert_eq!(crop_of(source, 0), Some(BoundingBox { x: 60, y: 27, width: 325, height: 304 }));
    assert_eq!(opened.completeness, partial("cub200", "all has 3 images of 11788"));
    assert!(zero_shot.train.set.images().is_none()); // read one at a time

    // Where a list and another do not agree.
    let faults = [
        ("image_class_labels", "1 1\n2 201\n3 101\n", ":2: class 201, which classes.txt lacks"),
        (
            "image_class_labels",
            "1 1\n2 1\n",
            "CUB_200_2011/images.txt:3: image 3 has no line in image_class_labels.txt",
        ),
        ("train_test_split", "1 0\n2 2\n3 1\n", ":2: `2`, expected 1 for training or 0 for test"),
        ("train_test_split", "1 0\n1 1\n", ":2: number 1 twice"),
        ("images", "1 a b\n", ":1: 3 columns, expected 2"),
        ("images", "one a.jpg\n", ":1: `one`, expected a number"),
        ("bounding_boxes", "1 a 2 3 4\n", ":1: `a`, expected a number"),
        ("classes", "", ":1: no lines, expected a list"),
    ];
    for (list, content, message) in faults {
        let data = Data::new("cub200");
        let name = format!("CUB_200_2011/{list}.txt");
        // Unpacked by hand, which is read as it lies there.
        for (file, good) in cub() {
            data.put(&file, if file == name { content.as_bytes() } else { &good });
        }
        let got = data.error();
        assert!(got.ends_with(&format!("{message}; fetch archive and lists from the same source")), "{got}");
    }
}

#[test]
fn cars_have_their_annotations_in_a_mat_file() {
    let data = Data::new("cars196");
    data.copy("cars_packed.mat", "cars_annos.mat");
    data.tar_gz("car_ims.tgz", &cars());
    let opened = data.open();
    // Two models only: none beyond the 98th is left to test on.
    assert!(opened.zero_shot.is_none());
    let closed = opened.closed_set.unwrap();
    assert_eq!((&closed.train.indices[..], &closed.test.indices[..]), (&[0, 2][..], &[1, 3][..]));
    let source = closed.train.set.source();
    assert_eq!(
        (source.labels(), source.class_names()[0].as_str()),
        (&[0, 0, 1, 1][..], "AM General Hummer SUV 2000")
    );
    // Corners count from 1 and belong to the box: 112, 7, 853, 717.
    assert_eq!(crop_of(source, 0), Some(BoundingBox { x: 111, y: 6, width: 742, height: 711 }));
    assert_eq!(bytes_of(source, 3), [4, 4, 4]);
    data.copy("svhn_raw.mat", "cars_annos.mat");
    assert_eq!(
        data.error(),
        "SET/cars_annos.mat: byte 128: no struct `annotations`; give the cars_annos.mat that belongs to car_ims.tgz"
    );
}

#[test]
fn online_products_are_read_through_the_index_of_the_zip() {
    let data = Data::new("sop");
    data.zip("Stanford_Online_Products.zip", &sop("59552 11319 12 table_final/11319_0.JPG\n"));
    let opened = data.open();
    assert!(opened.closed_set.is_none()); // class-disjoint as published
    let protocol = opened.zero_shot.unwrap();
    assert_eq!((&protocol.train.indices[..], &protocol.test.indices[..]), (&[0, 1, 2][..], &[3][..]));
    let source = protocol.train.set.source();
    assert_eq!((source.labels(), source.groups()), (&[0, 0, 1, 2][..], Some(&[0, 0, 1, 1][..])));
    assert_eq!(source.class_names(), ["1", "2", "11319"]);
    assert_eq!(bytes_of(source, 3), b"four");
    let Item::Encoded { name, .. } = source.item(0).unwrap() else { panic!() };
    assert!(
        name.ends_with("Stanford_Online_Products.zip: Stanford_Online_Products/bicycle_final/1_0.JPG"),
        "{name}"
    );
    // From several threads at once.
    std::thread::scope(|scope| {
        for i in 0..4 {
            scope.spawn(move || assert!(!bytes_of(source, i).is_empty()));
        }
    });
    data.zip("Stanford_Online_Products.zip", &sop("59552 11319 12 table_final/missing.JPG\n"));
    assert_eq!(
        data.error(),
        "SET/Stanford_Online_Products.zip: Stanford_Online_Products/table_final/missing.JPG: is listed but absent; \
         fetch archive and lists from the same source"
    );
}

#[test]
fn in_shop_queries_are_looked_up_in_the_gallery() {
    let data = Data::new("inshop");
    // The lists lie where the official folders have them.
    inshop(&data);
    let opened = data.open();
    let protocol = opened.zero_shot.unwrap();
    let gallery = protocol.gallery.unwrap();
    let indices = [&protocol.train.indices, &protocol.test.indices, &gallery.indices].map(|i| i.as_slice());
    assert_eq!(indices, [&[0, 1][..], &[2], &[3]]);
    let source = gallery.set.source();
    assert_eq!((source.labels(), source.groups()), (&[0, 0, 1, 1][..], Some(&[1, 1, 0, 0][..])));
    assert_eq!(source.class_names(), ["id_00000002", "id_00000009"]);
    assert_eq!(crop_of(source, 0), Some(BoundingBox { x: 50, y: 49, width: 158, height: 186 }));
    assert_eq!(crop_of(source, 1), None);
    assert_eq!(bytes_of(source, 3), INSHOP[3].0.as_bytes());
    let what = "train has 2 images of 25882; test has 2 images of 26830";
    assert_eq!(opened.completeness, partial("inshop", what));
    data.put("Eval/list_eval_partition.txt", inshop_partition(5).as_bytes());
    assert!(
        data.error().contains("list_eval_partition.txt:1: 5 rows announced, 4 there"),
        "{}",
        data.error()
    );
}

#[test]
fn a_set_that_is_not_there_says_how_to_get_it_and_a_part_stands_in_by_name() {
    let data = Data::new("nothing");
    let message = |name: &str| benchmark(name, data.dir.path()).unwrap_err().to_string();
    assert!(message("svhn").ends_with("; fetch it: cargo xtask download svhn"), "{}", message("svhn"));
    assert!(message("svhm").starts_with("dataset `svhm` is not in the manifest; known are "));

    // Asked for the whole, given the part, which says so; it may also lie in the folder of the whole.
    for folder in ["fashion-mnist-20k", "fashion-mnist"] {
        let data = Data::new(folder);
        IDX.iter().for_each(|name| data.copy(&format!("excerpts/fashion-mnist/{name}"), name));
        let opened = benchmark("fashion-mnist", data.dir.path()).unwrap();
        assert_eq!(opened.name, folder);
        let told = opened.completeness.to_string();
        assert!(told.starts_with("PARTIAL, not fashion-mnist: "), "{told}");
        assert_eq!(benchmark(folder, data.dir.path()).unwrap().name, folder);
    }
    let data = Data::new("cifar10");
    data.copy("excerpts/cifar10/cifar-10-binary.tar.gz", "cifar-10-binary-subset.tar.gz");
    let opened = benchmark("cifar10", data.dir.path()).unwrap();
    assert_eq!(opened.name, "cifar10-5k-jpeg");
    assert!(opened.completeness.to_string().contains("their pixels come from JPEG files"));
}
