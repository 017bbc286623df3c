"""Writes pictures.safetensors: what PIL and torchvision make of one picture, for ../pictures.rs.

Made with Pillow 13.0.0 (libjpeg-turbo) and torchvision 0.29.2: `python make.py` in this folder.
"""

import io

import numpy
import torch
import torchvision.transforms.functional as F
from PIL import Image, ImageEnhance, ImageOps
from safetensors.torch import save_file
from torchvision.transforms import InterpolationMode

out = {}


def keep(name, picture):
    array = numpy.asarray(picture)
    out[name] = torch.from_numpy(array.copy().reshape(array.shape[0], array.shape[1], -1))


def scene(height, width):
    """Gradients, a disc with a hard edge, stripes up to the finest, and noise."""
    generator = numpy.random.default_rng(7)
    y, x = numpy.mgrid[0:height, 0:width] / max(height, width)
    disc = ((x - 0.6) ** 2 + (y - 0.3) ** 2 < 0.04).astype(float)
    stripes = 0.5 + 0.5 * numpy.sin(400 * x * x)
    red = 0.2 + 0.7 * x + 0.1 * disc
    green = 0.8 - 0.6 * y - 0.2 * x + 0.3 * disc
    blue = 0.6 * stripes * (y > 0.35) + 0.4 * (1 - disc) * y
    noise = generator.normal(0, 0.03, (height, width, 3))
    pixels = numpy.stack([red, green, blue], 2) + noise
    return Image.fromarray((255 * pixels.clip(0, 1)).round().astype(numpy.uint8))


picture = scene(67, 91)
grey = picture.convert("L")
keep("picture", picture)
keep("grey", grey)

modes = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
for name, mode in modes.items():
    for size in [32, 100]:
        keep(f"resize.{name}.{size}", F.resize(picture, size, mode))
    keep(f"resize.{name}.20x70", F.resize(picture, [20, 70], mode))
    keep(f"resize-grey.{name}.20x70", F.resize(grey, [20, 70], mode))
    planes = torch.from_numpy(numpy.asarray(picture).copy()).permute(2, 0, 1)
    keep(f"resize-tensor.{name}.20x70", F.resize(planes, [20, 70], mode, antialias=True).permute(1, 2, 0))
    # The part [top 11, left 17, height 33, width 50], then resized.
    keep(f"resized-crop.{name}.24x24", F.resized_crop(picture, 11, 17, 33, 50, [24, 24], mode))

keep("center-crop.30x41", F.center_crop(picture, [30, 41]))
for factor in [0.3, 1.7]:
    keep(f"brightness.{factor}", ImageEnhance.Brightness(picture).enhance(factor))
    keep(f"contrast.{factor}", ImageEnhance.Contrast(picture).enhance(factor))
    keep(f"saturation.{factor}", ImageEnhance.Color(picture).enhance(factor))
    keep(f"sharpness.{factor}", ImageEnhance.Sharpness(picture).enhance(factor))
for turn in [-0.4, 0.15]:
    planes = torch.from_numpy(numpy.asarray(picture).copy()).permute(2, 0, 1)
    keep(f"hue.{turn}", F.adjust_hue(planes, turn).permute(1, 2, 0))
keep("posterize.3", ImageOps.posterize(picture, 3))
keep("solarize.100", ImageOps.solarize(picture, 100))
keep("auto-contrast", ImageOps.autocontrast(ImageEnhance.Brightness(picture).enhance(0.5)))
keep("equalize", ImageOps.equalize(picture))
keep("half-bright", ImageEnhance.Brightness(picture).enhance(0.5))
for sigma in [0.5, 2.0]:
    planes = torch.from_numpy(numpy.asarray(picture).copy()).permute(2, 0, 1)
    keep(f"blur.9.{sigma}", F.gaussian_blur(planes, [9, 9], [sigma, sigma]).permute(1, 2, 0))


def file(name, picture, form, **options):
    """The bytes of a file, and what PIL reads from it in colour and in grey."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    data = buffer.getvalue()
    out[f"file.{name}"] = torch.tensor(list(data), dtype=torch.uint8)
    keep(f"color.{name}", Image.open(io.BytesIO(data)).convert("RGB"))
    keep(f"grey.{name}", Image.open(io.BytesIO(data)).convert("L"))


file("jpeg-444", picture, "JPEG", quality=90, subsampling=0)
file("jpeg-422", picture, "JPEG", quality=90, subsampling=1)
file("jpeg-420", picture, "JPEG", quality=90, subsampling=2)
file("jpeg-420-progressive", picture, "JPEG", quality=75, progressive=True)
file("jpeg-420-restart", picture, "JPEG", quality=75, restart_marker_rows=1)
file("jpeg-grey", grey, "JPEG", quality=90)
file("jpeg-cmyk", picture.convert("CMYK"), "JPEG", quality=90)
file("png-rgb", picture, "PNG")
file("png-grey", grey, "PNG")
file("png-palette", picture.quantize(32), "PNG")
file("png-bit", grey.convert("1"), "PNG")
alpha = picture.convert("RGBA")
alpha.putalpha(grey)
file("png-rgba", alpha, "PNG")

save_file(out, "pictures.safetensors")
print(sum(t.numel() for t in out.values()), "bytes in", len(out), "tensors")
