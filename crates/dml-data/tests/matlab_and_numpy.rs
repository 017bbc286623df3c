//! MAT-files that SciPy 1.17.1 wrote and arrays that NumPy wrote, against the values those were given.
//!
//! The fixtures have the layouts of SVHN (`X` `[32, 32, 3, n]`, `y` `[n, 1]`) and of Cars196 (`annotations`, a
//! struct array, and `class_names`, a cell array), each packed and not: `scipy.io.savemat` with `do_compression`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use dml_data::{
    Result,
    format::{
        mat::{self, Value, Variable},
        npy::{self, Values},
    },
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn named<'a>(variables: &'a [Variable], name: &str) -> &'a Value {
    &variables.iter().find(|v| v.name == name).unwrap().value
}

#[test]
fn images_and_labels_packed_and_not() -> Result<()> {
    let packed = mat::read(fixture("svhn_packed.mat"))?;
    let Value::Bytes { dims, values } = named(&packed, "X") else { panic!() };
    assert_eq!(dims, &[32, 32, 3, 5]);
    assert_eq!(values.iter().map(|&v| u64::from(v)).sum::<u64>(), 1_928_332);
    let at = |r: usize, c: usize, k: usize, n: usize| values[r + 32 * (c + 32 * (k + 3 * n))];
    assert_eq!([at(0, 0, 0, 0), at(0, 1, 0, 0), at(1, 0, 0, 0)], [175, 42, 81]);
    assert_eq!([at(5, 9, 1, 3), at(31, 31, 2, 4), at(3, 7, 1, 4), at(31, 0, 2, 0)], [96, 104, 230, 91]);
    assert_eq!(named(&packed, "y").integers().unwrap(), [1, 9, 2, 10, 10]);

    let raw = mat::read(fixture("svhn_raw.mat"))?;
    let Value::Bytes { dims, values: first_two } = named(&raw, "X") else { panic!() };
    assert_eq!(dims, &[32, 32, 3, 2]);
    assert_eq!(first_two[..], values[..2 * 3072]);
    // The labels of this one are of class double.
    assert_eq!(named(&raw, "y"), &Value::Numbers { dims: vec![2, 1], values: vec![1.0, 9.0] });
    Ok(())
}

#[test]
fn structs_cells_and_text_packed_and_not() -> Result<()> {
    let packed = mat::read(fixture("cars_packed.mat"))?;
    assert_eq!(packed, mat::read(fixture("cars_raw.mat"))?);
    let Value::Struct { dims, fields, values } = named(&packed, "annotations") else { panic!() };
    assert_eq!(dims, &[1, 4]);
    assert_eq!(fields, &["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]);
    let second = &values[7..14];
    assert_eq!(second[0].text(), Some("car_ims/000002.jpg"));
    let numbers: Vec<_> = second[1..].iter().map(|v| v.integer().unwrap()).collect();
    assert_eq!(numbers, [48, 24, 441, 202, 1, 1]);
    let Value::Cells { dims, values } = named(&packed, "class_names") else { panic!() };
    assert_eq!(dims, &[1, 2]);
    assert_eq!(values[0].text(), Some("AM General Hummer SUV 2000"));
    assert_eq!(values[1].text(), Some("Ram C/V Cargo Van Minivan 2012 \u{2014} \u{e9}"));
    Ok(())
}

#[test]
fn every_cut_of_a_mat_file_is_an_error() {
    for name in ["cars_raw.mat", "cars_packed.mat"] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        // The first variable may be whole where the second is cut off altogether.
        let whole = mat::parse(&bytes, Path::new(name)).unwrap();
        for n in 0..bytes.len() {
            match mat::parse(&bytes[..n], Path::new(name)) {
                Ok(variables) => {
                    assert!(variables.len() < whole.len() && variables[..] == whole[..variables.len()])
                }
                Err(error) => assert!(error.to_string().starts_with(&format!("{name}: byte ")), "{error}"),
            }
        }
    }
}

#[test]
fn what_a_mat_file_may_not_be_is_named() {
    let raw = std::fs::read(fixture("svhn_raw.mat")).unwrap();
    let message = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = raw.clone();
        change(&mut bytes);
        mat::parse(&bytes, Path::new("x.mat")).unwrap_err().to_string()
    };
    let remedy = "give a MAT-file of level 5, as MATLAB's `save -v7` and SciPy's `savemat` write it";
    assert_eq!(
        message(&|b| b[124..126].copy_from_slice(&[0, 2])),
        format!("x.mat: byte 124: version 0x0200 (7.3, which is HDF5), expected 0x0100; {remedy}")
    );
    assert_eq!(
        message(&|b| b[126] = b'X'),
        format!("x.mat: byte 126: no `IM` or `MI` where a MAT-file tells its byte order; {remedy}")
    );
    assert_eq!(
        message(&|b| b[128] = 9),
        format!("x.mat: byte 128: an element of type 9, expected 14 (matrix) or 15 (packed); {remedy}")
    );
    // The class of the first matrix, in the low byte of its flags.
    assert_eq!(
        message(&|b| b[144] = 5),
        format!("x.mat: byte 136: `X` is of class sparse, which is not read; {remedy}")
    );
    // Its first size: 31 rows instead of 32.
    assert_eq!(
        message(&|b| b[160] = 31),
        format!("x.mat: byte 184: `X` holds 6144 bytes, expected 5952 values of 1 bytes; {remedy}")
    );
}

#[test]
fn a_big_endian_file_reads_alike() -> Result<()> {
    // One 1×2 double matrix `v` = [1.5, −2], written out by hand.
    let mut file = vec![b' '; 124];
    file.extend([1, 0, b'M', b'I']);
    let word = |file: &mut Vec<u8>, value: u32| file.extend(value.to_be_bytes());
    for value in [14, 8 + 8 + 8 + 8 + 8 + 8 + 16, 6, 8, 6, 0, 5, 8, 1, 2] {
        word(&mut file, value);
    }
    word(&mut file, 1 << 16 | 1);
    file.extend([b'v', 0, 0, 0]);
    word(&mut file, 9);
    word(&mut file, 16);
    file.extend(1.5f64.to_be_bytes());
    file.extend((-2f64).to_be_bytes());
    let variables = mat::parse(&file, Path::new("big.mat"))?;
    let value = Value::Numbers { dims: vec![1, 2], values: vec![1.5, -2.0] };
    assert_eq!(variables, [Variable { name: "v".into(), value }]);
    Ok(())
}

#[test]
fn arrays_of_every_type() -> Result<()> {
    let read = |name| npy::read(fixture(name));
    let array = read("f4.npy")?;
    assert_eq!((array.shape, array.values), (vec![2, 3], Values::F32(vec![0.0, 0.25, 0.5, 0.75, 1.0, 1.25])));
    let array = read("f8_fortran.npy")?;
    assert_eq!((array.shape, array.values), (vec![2, 3], Values::F64(vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0])));
    assert_eq!(read("i8.npy")?.values, Values::I64(vec![3, -1, 1 << 40]));
    assert_eq!(read("u1.npy")?.values, Values::I64(vec![0, 255]));
    let array = read("f2.npy")?;
    assert_eq!((array.shape, array.values), (vec![1, 2], Values::F32(vec![0.5, -2.0])));
    assert_eq!(read("be_f4.npy")?.values, Values::F32(vec![1.5, -3.0]));
    Ok(())
}

#[test]
fn what_an_array_may_not_be_is_named() {
    let bytes = std::fs::read(fixture("f4.npy")).unwrap();
    let message = |bytes: &[u8]| npy::parse(bytes, Path::new("x.npy")).unwrap_err().to_string();
    for n in 0..bytes.len() {
        assert!(message(&bytes[..n]).contains(": the file ends here"), "cut at {n}");
    }
    let replaced = |from: &str, to: &str| {
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut bytes = bytes.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    assert!(message(&replaced("NUMPY", "BUMPY")).contains("wrong magic, expected 0x93 NUMPY"));
    assert!(
        message(&replaced("<f4", "<c8"))
            .contains("values of type `<c8`, expected whole numbers or floating point")
    );
    assert!(message(&replaced("(2, 3)", "(2, x)")).contains("a description that cannot be read"));
    assert!(message(&replaced("(2, 3)", "(1, 3)")).contains("bytes after the last value"));
    assert!(
        message(&replaced("(2, 3), }", "(99999999999,99999999999), }"))
            .contains("more than the 2147483648 bytes")
    );
}
