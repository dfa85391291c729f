"""Pictures of every mode become the right input, and what is no picture becomes one line."""

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from convatlas.errors import InputError
from convatlas.nets.registry import EFFICIENTNET_LITE, IMAGENET
from convatlas.verify.images import FORMATS, crop_middle, load_image, locate, to_input, to_rgb


def save(tmp_path, image: Image.Image, name: str = "x.png", **how) -> str:
    path = tmp_path / name
    image.save(path, **how)
    return str(path)


def pixel(path: str) -> tuple:
    image = load_image(path)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


@pytest.mark.parametrize(
    "mode, color, name, expected",
    [
        ("RGB", (10, 20, 30), "x.png", (10, 20, 30)),
        ("L", 100, "x.png", (100, 100, 100)),
        ("1", 1, "x.png", (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), "x.png", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), "x.png", (255, 255, 255)),
        ("RGBA", (0, 0, 0, 128), "x.png", (127, 127, 127)),
        ("LA", (0, 0), "x.png", (255, 255, 255)),
        ("I;16", 0x8080, "x.png", (128, 128, 128)),
        ("I", 200, "x.tiff", (200, 200, 200)),
        ("F", 200.0, "x.tiff", (200, 200, 200)),
        ("CMYK", (0, 0, 0, 255), "x.tiff", (0, 0, 0)),
    ],
)
def test_modes(tmp_path, mode, color, name, expected):
    assert pixel(save(tmp_path, Image.new(mode, (4, 3), color), name)) == expected


def test_a_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    assert pixel(save(tmp_path, image)) == (9, 8, 7)
    assert pixel(save(tmp_path, image, transparency=1)) == (255, 255, 255)


def test_numbers_beyond_16_bits_are_scaled_not_clipped():
    image = Image.fromarray(np.array([[0, 1000, 4000]], np.int32))
    assert [to_rgb(image).getpixel((x, 0))[0] for x in range(3)] == [0, 64, 255]
    image = Image.fromarray(np.array([[np.nan, -5.0, 255.0]], np.float32))
    assert [to_rgb(image).getpixel((x, 0))[0] for x in range(3)] == [0, 0, 255]


def test_the_cameras_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert load_image(save(tmp_path, image, "x.jpg", exif=exif)).size == (4, 8)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("white", "black")]
    assert pixel(save(tmp_path, frames[0], "x.gif", save_all=True, append_images=frames[1:])) == (255, 255, 255)


def broken(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "png")
    return {
        "text": b"this is no picture\nat all",
        "empty": b"",
        "cut short": buffer.getvalue()[:1500],
        "no header": buffer.getvalue()[10:],
    }[kind]


@pytest.mark.parametrize("kind", ["text", "empty", "cut short", "no header"])
def test_unreadable_files(tmp_path, kind):
    path = tmp_path / "x.png"
    path.write_bytes(broken(kind))
    with pytest.raises(InputError, match="cannot be read") as error:
        load_image(str(path))
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_formats_for_other_purposes_are_refused_before_anything_decodes_them(tmp_path, monkeypatch):
    path = save(tmp_path, Image.new("RGB", (4, 3)), "x.eps")
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail("a program was started"))
    for name in (path, shutil.copy(path, tmp_path / "x.png"), save(tmp_path, Image.new("RGB", (4, 3)), "x.pcx")):
        with pytest.raises(InputError, match="expected a picture in AVIF, BMP"):
            load_image(str(name))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_file_of_any_format_is_a_picture_or_one_line(tmp_path, kind):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip("Pillow does not write it here")
    buffer, random = io.BytesIO(), np.random.default_rng(0)
    noise = random.integers(0, 256, (40, 32, 3), np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    path, refused = tmp_path / "x", 0
    path.write_bytes(buffer.getvalue())
    assert load_image(str(path)).mode == "RGB"
    for _ in range(60):
        data = bytearray(buffer.getvalue())
        for place in random.integers(0, min(len(data), 200), random.integers(1, 6)):
            data[place] = random.integers(0, 256)
        path.write_bytes(data[: random.integers(len(data) // 2, len(data) + 1)])
        try:
            assert load_image(str(path)).mode == "RGB"
        except InputError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 400
    assert refused


def test_a_large_picture_is_no_warning(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert load_image(save(tmp_path, Image.new("1", (15, 10)))).size == (15, 10) and not recwarn


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path, Image.new("1", (300, 300)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="decompression bomb"):
        load_image(path)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_image(str(tmp_path / "gone.png"))
    for source in (str(tmp_path), "/dev/zero", "/dev/null"):
        with pytest.raises(InputError, match="not a file"):
            load_image(source)


@pytest.mark.parametrize(
    "source", ["a\0b.png", "x" * 300, "d/" * 3000, "a\nb.png", "skimage:\0", "skimage:" + "x" * 3000]
)
def test_names_that_no_file_has_are_one_short_line(source):
    with pytest.raises(InputError) as error:
        locate(source)
    assert len(str(error.value)) < 600 and str(error.value).isprintable()


def test_bundled_pictures():
    pytest.importorskip("skimage")
    assert load_image("skimage:chelsea").size == (451, 300)
    with pytest.raises(InputError, match=r"astronaut.*chelsea.*coffee"):
        load_image("skimage:nosuch")
    with pytest.raises(InputError, match="no such picture"):
        load_image("skimage:../data/chelsea")


def test_scikit_image_missing(monkeypatch):
    monkeypatch.setattr("convatlas.verify.images.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "convatlas\[demo\]"'):
        load_image("skimage:chelsea")


SIZES = [(451, 300), (300, 451), (256, 256), (31, 77), (500, 499), (1024, 260)]


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("how", [IMAGENET, EFFICIENTNET_LITE], ids=lambda h: h.interpolation)
def test_resize_and_crop_are_torchvisions(size, how):
    transforms = pytest.importorskip("torchvision.transforms")
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(noise)
    mode = transforms.InterpolationMode(how.interpolation)
    theirs = transforms.Compose([transforms.Resize(how.resize, mode), transforms.CenterCrop(how.crop)])(image)
    assert np.array_equal(np.asarray(crop_middle(image, how)), np.asarray(theirs))


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1), (2, 999)])
def test_thin_strips(size):
    assert crop_middle(Image.new("RGB", size, "red"), IMAGENET).size == (224, 224)


def test_normalisation():
    white = Image.new("RGB", (300, 300), "white")
    x = to_input(white, IMAGENET)
    assert x.shape == (1, 3, 224, 224) and x.dtype == torch.float32 and x.stride(1) == 1
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(x[0, :, 0, 0], expected)
    assert to_input(white, EFFICIENTNET_LITE)[0, 0, 0, 0] == 1.0
