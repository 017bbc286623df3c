//! Decoding and transforms against PIL and torchvision, on one picture; `pictures/make.py` made the values.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use dml_data::transform::{
    CenterCrop, Filter, GaussianBlur, Image, RandomResizedCrop, Resize, Size, Transform, decode, draw_rng,
};
use dml_data::{Error, Result};

/// Both sides round, and a cubic that overshoots is cut, to bytes between rows and columns. PIL takes columns first
/// for some sizes: one step more or less at a quarter of the values, two at a few.
const RESIZE: u8 = 2;
const RESIZE_MEAN: f64 = 0.25;
/// Where both take rows first, the fixed-point sums differ in one value of a hundred at most.
const SAME_ORDER_MEAN: f64 = 0.01;
/// torchvision multiplies in f32 with the kernel in two dimensions, this crate in one after the other.
const BLUR: u8 = 1;
/// The inverse cosine transforms differ in their last bit, and YCbCr → RGB triples it in blue.
const JPEG_WORST: u8 = 4;
/// Interpolated chroma adds the rounding of a second stage.
const JPEG_CHROMA_WORST: u8 = 12;

fn reference() -> HashMap<String, Tensor> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pictures/pictures.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn image(tensor: &Tensor) -> Image {
    let (height, width, channels) = tensor.dims3().unwrap();
    Image::new(bytes(tensor), height, width, channels).unwrap()
}

/// The greatest and the mean difference.
fn difference(name: &str, ours: &Image, theirs: &Tensor) -> (u8, f64) {
    let theirs = image(theirs);
    let shape = |image: &Image| [image.height(), image.width(), image.channels()];
    assert_eq!(shape(ours), shape(&theirs), "{name}");
    let gaps: Vec<u8> = ours.pixels().iter().zip(theirs.pixels()).map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: f64 = gaps.iter().map(|&gap| f64::from(gap)).sum();
    (gaps.iter().copied().max().unwrap_or(0), sum / gaps.len() as f64)
}

fn apply(transform: &dyn Transform, image: &Image) -> Image {
    transform.apply(image.clone(), &mut draw_rng(0, 0, 0, 0, 0)).unwrap()
}

#[test]
fn resizing_agrees_with_pil_and_with_torchvision() {
    let all = reference();
    let (picture, grey) = (image(&all["picture"]), image(&all["grey"]));
    for (kernel, filter) in [("bilinear", Filter::Bilinear), ("bicubic", Filter::Bicubic)] {
        let check = |name: String, ours: Image| {
            let (worst, mean) = difference(&name, &ours, &all[&name]);
            let (most, most_mean) =
                if name.ends_with("20x70") { (RESIZE, RESIZE_MEAN) } else { (1, SAME_ORDER_MEAN) };
            assert!(worst <= most && mean < most_mean, "{name}: {worst}, {mean} on average");
        };
        for size in [32, 100] {
            let ours = apply(&Resize { size: Size::Shorter(size), filter }, &picture);
            check(format!("resize.{kernel}.{size}"), ours);
        }
        let exact = Resize { size: Size::Exact([20, 70]), filter };
        check(format!("resize.{kernel}.20x70"), apply(&exact, &picture));
        check(format!("resize-tensor.{kernel}.20x70"), apply(&exact, &picture));
        check(format!("resize-grey.{kernel}.20x70"), apply(&exact, &grey));
    }
}

#[test]
fn a_resized_crop_sees_nothing_outside_its_part() {
    let all = reference();
    let picture = image(&all["picture"]);
    let part: Vec<u8> = (11..44)
        .flat_map(|y| (17..67).flat_map(move |x| [(y, x)]))
        .flat_map(|(y, x)| picture.pixel(y, x).to_vec())
        .collect();
    let part = Image::new(part, 33, 50, 3).unwrap();
    for (kernel, filter) in [("bilinear", Filter::Bilinear), ("bicubic", Filter::Bicubic)] {
        // All of the part, whatever is drawn.
        let whole = RandomResizedCrop {
            scale: [1.0, 1.0],
            ratio: [1.0, 2.0],
            filter,
            ..RandomResizedCrop::new([24, 24])
        };
        let name = format!("resized-crop.{kernel}.24x24");
        let (worst, _) =
            difference(&name, &apply(&Resize { size: Size::Exact([24, 24]), filter }, &part), &all[&name]);
        assert!(worst <= RESIZE, "{name}: {worst}");
        let ours = apply(&whole, &part);
        assert_eq!((ours.height(), ours.width()), (24, 24));
    }
}

#[test]
fn the_center_is_torchvisions() {
    let all = reference();
    let ours = apply(&CenterCrop { size: [30, 41] }, &image(&all["picture"]));
    assert_eq!(difference("center-crop", &ours, &all["center-crop.30x41"]), (0, 0.0));
}

#[test]
fn blurring_agrees_with_torchvision() {
    let all = reference();
    for sigma in ["0.5", "2.0"] {
        let deviation: f64 = sigma.parse().unwrap();
        let blur = GaussianBlur { size: 9, sigma: [deviation; 2], p: 1.0 };
        let name = format!("blur.9.{sigma}");
        let (worst, mean) = difference(&name, &apply(&blur, &image(&all["picture"])), &all[&name]);
        assert!(worst <= BLUR && mean < 0.01, "{name}: {worst}, {mean} on average");
    }
}

#[test]
fn files_are_decoded_as_pil_decodes_them() {
    let all = reference();
    let files: Vec<&String> = all.keys().filter(|name| name.starts_with("file.")).collect();
    assert_eq!(files.len(), 12);
    for file in files {
        let name = file.trim_start_matches("file.");
        for (kind, channels) in [("color", 3), ("grey", 1)] {
            let ours = decode(&bytes(&all[file]), channels, name).unwrap();
            let (worst, mean) = difference(name, &ours, &all[&format!("{kind}.{name}")]);
            let (most, most_mean) = match name {
                _ if name.starts_with("png") => (0, 0.0),
                _ if name.contains("420") || name.contains("422") => (JPEG_CHROMA_WORST, 0.7),
                _ => (JPEG_WORST, 0.7),
            };
            assert!(worst <= most && mean <= most_mean, "{kind} of {name}: {worst}, {mean} on average");
        }
    }
}

#[test]
fn a_truncated_or_damaged_file_is_an_error_with_its_name() -> Result<()> {
    let all = reference();
    for (file, tensor) in all.iter().filter(|(name, _)| name.starts_with("file.")) {
        let whole = bytes(tensor);
        for length in [0, 1, 3, 8, 20, 100, whole.len() / 2, whole.len() * 9 / 10, whole.len() - 2] {
            match decode(&whole[..length], 3, "folder/a.jpg") {
                Err(Error::Decode { name, .. }) => assert_eq!(name, "folder/a.jpg"),
                // A PNG without its last bytes has all its pixels.
                Ok(image) => {
                    assert!(file.contains("png") && length + 2 == whole.len(), "{file} cut to {length}");
                    assert_eq!(image, decode(&whole, 3, "")?);
                }
                Err(other) => panic!("{file} cut to {length}: {other}"),
            }
        }
        // Whatever is changed: no panic, and if pixels come, as many as there should be.
        for i in (0..whole.len()).step_by(13) {
            let mut damaged = whole.clone();
            damaged[i] ^= 0x55;
            if let Ok(image) = decode(&damaged, 1, "") {
                assert_eq!(image.pixels().len(), image.height() * image.width());
            }
        }
    }
    let message = decode(b"GIF89a", 3, "cats/7.gif").unwrap_err().to_string();
    assert_eq!(
        message,
        "cats/7.gif is neither PNG nor JPEG: it begins with [47, 49, 46, 38]; fetch the file again or leave it out"
    );
    Ok(())
}

/// A PNG file of these pixels, written by the png crate.
fn png<P>(pixels: &[P::Subpixel]) -> Vec<u8>
where
    P: image::PixelWithColorType,
    [P::Subpixel]: image::EncodableLayout,
{
    let mut out = std::io::Cursor::new(Vec::new());
    let width = (pixels.len() / usize::from(P::CHANNEL_COUNT)) as u32;
    let image = image::ImageBuffer::<P, _>::from_raw(width, 1, pixels).unwrap();
    image.write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

#[test]
fn of_sixteen_bits_the_upper_eight_are_taken() -> Result<()> {
    // What Pillow 13 gives for red, green and blue; its grey of 16 bits is cut off at 255 instead.
    let values = [0u16, 1, 127, 128, 255, 256, 32_767, 32_768, 65_407, 65_408, 65_535];
    let upper = [0u8, 0, 0, 0, 0, 1, 127, 128, 255, 255, 255];
    let each = |n: usize| values.iter().flat_map(|&v| vec![v; n]).collect::<Vec<u16>>();
    for file in [
        png::<image::Luma<u16>>(&each(1)),
        png::<image::LumaA<u16>>(&each(2)),
        png::<image::Rgb<u16>>(&each(3)),
        png::<image::Rgba<u16>>(&each(4)),
    ] {
        assert_eq!(decode(&file, 1, "")?.pixels(), upper);
        assert_eq!(decode(&file, 3, "")?.pixels(), upper.map(|v| [v; 3]).as_flattened());
    }
    Ok(())
}

#[test]
fn pictures_without_pixels_are_errors() {
    let all = reference();
    let mut jpeg = bytes(&all["file.jpeg-grey"]);
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&[0, 0]); // no rows
    let mut png = bytes(&all["file.png-grey"]);
    png[16..20].copy_from_slice(&[0; 4]); // no columns
    for (file, name) in [(Vec::new(), "empty.jpg"), (jpeg, "flat.jpg"), (png, "thin.png")] {
        match decode(&file, 3, name) {
            Err(Error::Decode { name: named, .. }) => assert_eq!(named, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_header_that_claims_too_much_allocates_nothing() {
    // 65,500 × 65,500 pixels by the frame header of a JPEG file of a few bytes.
    let all = reference();
    let mut file = bytes(&all["file.jpeg-grey"]);
    let frame = file.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    file[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    assert!(decode(&file, 3, "bomb.jpg").is_err());
    let mut file = bytes(&all["file.png-grey"]);
    file[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    assert!(decode(&file, 3, "bomb.png").is_err());
    // 16,384 × 16,384 pixels are allowed, where there are bytes for them.
    let mut file = bytes(&all["file.jpeg-grey"]);
    file[frame + 5..frame + 9].copy_from_slice(&[0x40, 0, 0x40, 0]);
    let message = decode(&file, 3, "large.jpg").unwrap_err().to_string();
    assert!(message.contains("is truncated: 16384 × 16384 pixels cannot be in"), "{message}");
    let mut file = bytes(&all["file.png-grey"]);
    file[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
    let mut checksum = flate2::Crc::new();
    checksum.update(&file[12..29]);
    file[29..33].copy_from_slice(&checksum.sum().to_be_bytes());
    let message = decode(&file, 3, "large.png").unwrap_err().to_string();
    assert!(message.contains("Memory limit exceeded"), "{message}");
}

#[test]
fn a_picture_of_one_colour_is_no_bomb() -> Result<()> {
    // The fewest bytes a pixel that an encoder makes of it.
    let mut out = std::io::Cursor::new(Vec::new());
    let encoder = image::codecs::png::PngEncoder::new_with_quality(
        &mut out,
        image::codecs::png::CompressionType::Best,
        image::codecs::png::FilterType::NoFilter,
    );
    let side = 4096;
    let pixels = vec![0; (side * side) as usize];
    image::ImageEncoder::write_image(encoder, &pixels, side, side, image::ExtendedColorType::L8).unwrap();
    assert!(decode(&out.into_inner(), 1, "black.png")?.pixels() == pixels);
    let mut out = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, 1);
    image::ImageEncoder::write_image(encoder, &pixels, side, side, image::ExtendedColorType::L8).unwrap();
    let image = decode(&out, 1, "black.jpg")?;
    assert!((image.height(), image.width()) == (4096, 4096) && image.pixels().iter().all(|&v| v < 8));
    Ok(())
}
