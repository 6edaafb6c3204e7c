"""File formats -> arrays, masks -> boxes, and errors that say what to do."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from indus_lib import images
from indus_lib.boxes import to_relative
from indus_lib.images import ImageError, boxes_of_mask, load_image, load_mask, save_png
from indus_lib.samples import Sample

RAMP = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


def test_rgb_round_trip_is_exact(tmp_path):
    assert np.array_equal(load_image(save_png(tmp_path / "deep" / "a.png", RAMP)), RAMP)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.png"]  # no temporary file left


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr") else "x.png")
    Image.fromarray(RAMP).convert(mode).save(path)
    array = load_image(path)
    assert array.shape == (20, 30, 3) and array.dtype == np.uint8 and array.flags.writeable


def test_transparency_is_laid_over_white(tmp_path):
    pixels = np.zeros((10, 10, 4), np.uint8)
    pixels[:, 5:, 3] = 255  # black, left half invisible
    Image.fromarray(pixels).save(tmp_path / "x.png")
    array = load_image(tmp_path / "x.png")
    assert (array[:, :5] == 255).all() and (array[:, 5:] == 0).all()


def test_16_bit_is_divided_by_257_whatever_the_content(tmp_path):
    dim = np.full((10, 10), 257 * 3, np.uint16)  # a dark image stays dark: no stretching
    Image.fromarray(dim).save(tmp_path / "dim.png")
    dim[0, 0] = 65535
    Image.fromarray(dim).save(tmp_path / "full.tif")
    assert (load_image(tmp_path / "dim.png") == 3).all()
    full = load_image(tmp_path / "full.tif")
    assert full[0, 0, 0] == 255 and full[5, 5, 0] == 3


@pytest.mark.parametrize(
    ("values", "expected"), [([0.0, 1.0], [0, 255]), ([0.0, 200.0], [0, 200]), ([-5.0, 5.0], [0, 255])]
)
def test_float_images_take_the_smallest_usual_range(tmp_path, values, expected):
    array = np.resize(np.array(values, np.float32), (8, 8))
    Image.fromarray(array).save(tmp_path / "f.tif")
    assert load_image(tmp_path / "f.tif")[0, :2, 0].tolist() == expected


def test_exif_orientation_turns_the_image_and_its_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP).save(tmp_path / "x.jpg", exif=exif)
    assert load_image(tmp_path / "x.jpg").shape == (30, 20, 3)
    assert images.image_size(tmp_path / "x.jpg") == (20, 30)


def test_tile_cuts_and_refuses_what_is_outside(tmp_path):
    path = save_png(tmp_path / "x.png", RAMP)
    assert np.array_equal(load_image(path, (2, 3, 12, 20)), RAMP[3:20, 2:12])
    with pytest.raises(ImageError, match="not inside the 30 x 20"):
        load_image(path, (0, 0, 31, 20))


def _broken(tmp_path, kind):
    path = tmp_path / "bad.png"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not an image")
    elif kind == "tiny":
        save_png(path, np.zeros((7, 100), np.uint8))
    elif kind in ("cut", "flipped"):
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
        data = bytearray(save_png(path, noise).read_bytes())
        data[300:330] = bytes(30)
        path.write_bytes(bytes(data[:2000] if kind == "cut" else data))
    return path


@pytest.mark.parametrize(
    ("kind", "cure"),
    [
        ("missing", "check the path"),
        ("empty", "again"),
        ("text", "convert"),
        ("tiny", "at least 8"),
        ("cut", "again"),
        ("flipped", "again"),
    ],
)
def test_a_useless_file_is_named_with_its_cure(tmp_path, kind, cure):
    path = _broken(tmp_path, kind)
    with pytest.raises(ImageError, match=cure) as caught:
        load_image(path)
    assert str(path) in str(caught.value)


def test_a_huge_image_is_refused_from_its_header(tmp_path):
    Image.new("1", (10_000, 9_000)).save(tmp_path / "huge.png")
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(ImageError, match="cut it into tiles"):
        load_image(tmp_path / "huge.png")


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_bytes_give_an_image_or_an_image_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    with pytest.raises(ImageError):
        load_image(path)


@pytest.mark.parametrize("value", [1, 2, 7, 255])
def test_any_value_above_zero_is_anomalous_also_a_palette_index(tmp_path, value):
    array = np.zeros((16, 16), np.uint8)
    array[4:8, 4:8] = value
    grey, palette = Image.fromarray(array), Image.fromarray(array, mode="P")
    palette.putpalette([0, 0, 0] * 256)  # colours all black: only the index tells
    grey.save(tmp_path / "l.bmp")
    palette.save(tmp_path / "p.bmp")
    for name in ("l.bmp", "p.bmp"):
        assert np.array_equal(load_mask(tmp_path / name, (16, 16)), array > 0)


def test_jpeg_noise_is_no_anomaly(tmp_path):
    array = np.zeros((64, 64), np.uint8)
    array[20:40, 20:40] = 255
    Image.fromarray(array).save(tmp_path / "m.jpg", quality=40)
    mask = load_mask(tmp_path / "m.jpg")
    assert abs(int(mask.sum()) - 400) < 40 and not mask[:12].any()


def test_a_mask_of_another_scale_is_resized_of_another_shape_refused(tmp_path):
    array = np.zeros((40, 60), bool)
    array[10, 10] = True
    path = save_png(tmp_path / "m.png", array)
    assert load_mask(path, (80, 120)).sum() == 4
    assert load_mask(path, (20, 30)).sum() == 1  # shrinking loses no defect
    with pytest.raises(ImageError, match="pair belongs together"):
        load_mask(path, (60, 60))


def test_hand_made_mask_gives_hand_computed_boxes():
    mask = np.zeros((100, 200), bool)
    mask[10:20, 20:60] = True
    mask[50:90, 100:180] = True
    mask[95, 5] = True  # a speck beside larger regions
    assert boxes_of_mask(mask) == ((500, 500, 900, 900), (100, 100, 300, 200))


def test_a_lone_speck_is_kept_and_an_empty_mask_has_no_box():
    mask = np.zeros((50, 50), np.uint8)
    assert boxes_of_mask(mask) == ()
    mask[10, 20] = 1
    assert boxes_of_mask(mask) == ((400, 200, 420, 220),)


def test_fragments_within_one_percent_are_one_region():
    mask = np.zeros((1000, 1000), bool)
    mask[100:200, 100:200] = mask[100:200, 208:300] = True  # 8 px apart: one
    mask[500:600, 100:200] = mask[500:600, 230:300] = True  # 30 px apart: two
    assert boxes_of_mask(mask) == ((100, 100, 300, 200), (100, 500, 200, 600), (230, 500, 300, 600))


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_distant_rectangles_come_back_and_nothing_is_lost(data):
    height, width = data.draw(st.integers(60, 300)), data.draw(st.integers(60, 300))
    mask, windows = np.zeros((height, width), bool), []
    for row in range(2):
        for column in range(2):
            if data.draw(st.booleans()):
                x0, y0, w, h = column * width // 2, row * height // 2, width // 2 - 10, height // 2 - 10
                x1, y1 = x0 + data.draw(st.integers(0, w - 4)), y0 + data.draw(st.integers(0, h - 4))
                x2, y2 = data.draw(st.integers(x1 + 3, x0 + w)), data.draw(st.integers(y1 + 3, y0 + h))
                mask[y1:y2, x1:x2] = True
                windows.append((x1, y1, x2, y2))
    assert set(boxes_of_mask(mask)) == {to_relative(window, width, height) for window in windows}


def test_save_png_refuses_floats_and_leaves_nothing(tmp_path):
    with pytest.raises(ImageError, match="uint8"):
        save_png(tmp_path / "x.png", np.zeros((10, 10), np.float32))
    assert not list(tmp_path.iterdir())


def test_real_photographs_all_load(real_root):
    paths = [p for p in sorted(real_root.rglob("*")) if p.suffix.lower() in images.EXTENSIONS][::7]
    assert len(paths) > 30 and all(load_image(path).ndim == 3 for path in paths)


def test_a_photograph_thinner_than_any_model_sees_is_named(tmp_path) -> None:
    Image.fromarray(np.zeros((8, 850, 3), np.uint8)).save(tmp_path / "line.png")
    with pytest.raises(ImageError, match=r"line\.png: 850 x 8 px is thinner than 1:100"):
        load_image(tmp_path / "line.png")
    Image.fromarray(np.zeros((9, 850, 3), np.uint8)).save(tmp_path / "strip.png")
    assert load_image(tmp_path / "strip.png").shape == (9, 850, 3)
    Image.fromarray(np.zeros((700, 65_600), np.uint8)).save(tmp_path / "long.png")
    with pytest.raises(ImageError, match=r"long\.png: longer than 65500 px"):
        load_image(tmp_path / "long.png")


def test_the_size_of_a_png_that_is_cut_off_is_an_error_that_names_it(tmp_path) -> None:
    """Pillow reads all of a PNG to find its orientation."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"cut\.png: broken or cut off"):
        images.image_size(tmp_path / "cut.png")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["small", "large", "tile", "gone"]), max_size=12), st.integers(1, 5))
def test_a_batch_holds_no_more_photographs_than_memory(tmp_path_factory, kinds, size) -> None:
    folder = tmp_path_factory.mktemp("batches")
    pixels = {"small": 100, "large": 1200, "tile": 200, "gone": 0}
    for kind, side in (("small", (10, 10)), ("large", (30, 40)), ("tile", (60, 40))):
        Image.new("RGB", side).save(folder / f"{kind}.png")
    tiles = {"tile": (0, 0, 10, 20)}
    samples = [Sample(str(i), folder / f"{kind}.png", tile=tiles.get(kind)) for i, kind in enumerate(kinds)]
    with mock.patch.object(images, "MAX_BATCH_PIXELS", 1000):
        parts = images.batches(samples, size)
    assert [s for part in parts for s in part] == samples
    for part, behind in zip(parts, [*parts, []][1:], strict=True):
        held = sum(pixels[s.image.stem] for s in part)
        assert 0 < len(part) <= size and (held <= 1000 or len(part) == 1)
        assert not behind or len(part) == size or held + pixels[behind[0].image.stem] > 1000  # and no fewer
