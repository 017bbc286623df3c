//! PNG and JPEG files to pixels.

use std::io::Cursor;

use image::DynamicImage;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::Image;
use crate::{Error, Result};

/// A picture may have at most this many rows and as many columns: more is a damaged header or a bomb.
const MOST_PIXELS_A_SIDE: u32 = 1 << 15;
/// And at most this many bytes decoded.
const MOST_BYTES: u64 = 1 << 30;
/// A byte of a JPEG file stands for at most this many pixels: each block of 8 × 8 has a bit of its own at least.
const PIXELS_A_BYTE_OF_JPEG: u64 = 8 * 64;
/// A byte of a PNG file stands for at most this many bytes of a picture: deflate repeats at most 1,032 bytes, and a bit
/// of a palette becomes at most 4.
const BYTES_A_BYTE_OF_PNG: u64 = 1032 * 8 * 4;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG: &[u8] = b"\xff\xd8\xff";
const END_OF_JPEG: &[u8] = b"\xff\xd9";

/// The picture in a PNG or JPEG file, as 1 channel (grey) or 3 (red, green, blue); `name` is for messages.
///
/// Transparency is dropped, of 16 bits the upper 8 are taken, palettes are resolved, CMYK becomes RGB; the orientation
/// noted in Exif data is not applied. All of this is what PIL's `convert` does, but for grey of 16 bits, which PIL cuts
/// off at 255.
///
/// # Errors
/// [`Error::Argument`] for other numbers of channels; [`Error::Decode`] for a file that is damaged, truncated, of
/// another format, or larger than 32,768 pixels a side or 1 GiB decoded. Memory grows with the file, whatever size its
/// header claims.
pub fn decode(bytes: &[u8], channels: usize, name: &str) -> Result<Image> {
    if channels != 1 && channels != 3 {
        let (got, expected) = (channels.to_string(), "1 (grey) or 3 (red, green, blue)".to_owned());
        return Err(Error::Argument { op: "decode", arg: "channels", got, expected });
    }
    let decoded = if bytes.starts_with(JPEG) {
        jpeg(bytes, channels)
    } else if bytes.starts_with(PNG) {
        png(bytes)
    } else {
        Err(format!("is neither PNG nor JPEG: it begins with {:02x?}", &bytes[..bytes.len().min(4)]))
    };
    match decoded {
        Ok(image) => Ok(image.with_channels(channels)),
        Err(why) => Err(Error::Decode { name: name.to_owned(), why }),
    }
}

fn jpeg(bytes: &[u8], channels: usize) -> std::result::Result<Image, String> {
    let side = MOST_PIXELS_A_SIDE as usize;
    let output = if channels == 1 { ColorSpace::Luma } else { ColorSpace::RGB };
    // Truncated files are errors, not pictures with a grey half. The decoder may not see it in the last rows.
    if !bytes.windows(2).rev().any(|pair| pair == END_OF_JPEG) {
        return Err("is truncated: it lacks the marker at the end of a JPEG file".to_owned());
    }
    let options = DecoderOptions::default().set_max_width(side).set_max_height(side).set_strict_mode(true);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|e| format!("has a JPEG header that cannot be read ({e})"))?;
    let input = decoder.input_colorspace();
    let output = match input {
        Some(ColorSpace::Luma) => ColorSpace::Luma,
        // Its grey is the first plane; nothing else can be turned into grey while decoding.
        Some(ColorSpace::YCbCr) => output,
        _ => ColorSpace::RGB,
    };
    decoder.set_options(decoder.options().jpeg_set_out_colorspace(output));
    let size = decoder.output_buffer_size().ok_or("has no size in its JPEG header")?;
    if size as u64 > MOST_BYTES {
        return Err(format!("would take {size} bytes decoded"));
    }
    let info = decoder.info().ok_or("has no size in its JPEG header")?;
    if u64::from(info.width) * u64::from(info.height) > bytes.len() as u64 * PIXELS_A_BYTE_OF_JPEG {
        let (width, height) = (info.width, info.height);
        return Err(format!("is truncated: {width} × {height} pixels cannot be in {} bytes", bytes.len()));
    }
    let mut pixels = vec![0; size];
    decoder.decode_into(&mut pixels).map_err(|e| format!("holds JPEG data that cannot be decoded ({e})"))?;
    let channels = if output == ColorSpace::Luma { 1 } else { 3 };
    Image::new(pixels, info.height.into(), info.width.into(), channels).map_err(|e| e.to_string())
}

fn png(bytes: &[u8]) -> std::result::Result<Image, String> {
    let mut reader = image::ImageReader::with_format(Cursor::new(bytes), image::ImageFormat::Png);
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MOST_PIXELS_A_SIDE);
    limits.max_image_height = Some(MOST_PIXELS_A_SIDE);
    limits.max_alloc = Some(MOST_BYTES.min(bytes.len() as u64 * BYTES_A_BYTE_OF_PNG));
    reader.limits(limits);
    let decoded = reader.decode().map_err(|e| format!("holds PNG data that cannot be decoded ({e})"))?;
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let (pixels, channels) = match decoded {
        DynamicImage::ImageLuma16(image) => (upper_bytes::<1, 1>(&image), 1),
        DynamicImage::ImageLumaA16(image) => (upper_bytes::<2, 1>(&image), 1),
        DynamicImage::ImageRgb16(image) => (upper_bytes::<3, 3>(&image), 3),
        DynamicImage::ImageRgba16(image) => (upper_bytes::<4, 3>(&image), 3),
        color if color.color().has_color() => (color.into_rgb8().into_raw(), 3),
        grey => (grey.into_luma8().into_raw(), 1),
    };
    Image::new(pixels, height, width, channels).map_err(|e| e.to_string())
}

/// Of pixels of `N` values the first `C`, their upper bytes.
fn upper_bytes<const N: usize, const C: usize>(values: &[u16]) -> Vec<u8> {
    values
        .as_chunks::<N>()
        .0
        .iter()
        .flat_map(|pixel| pixel[..C].iter().map(|value| (value >> 8) as u8))
        .collect()
}
