"""Data sets: found, paired by id, and everything odd reported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dehaze.datasets import (
    DATASETS,
    DatasetNotFoundError,
    OddityKind,
    SizeMismatchError,
    open_dataset,
    open_folder,
    open_paired_folder,
    open_photo_folder,
    read_rgb,
    register_dataset,
)
from dehaze.datasets.classes import open_class_folder
from dehaze.datasets.pairing import natural_key, pair
from dehaze.datasets.registry import BenchmarkDataset
from dehaze.photos import PhotoError
from dehaze.registry import UnknownNameError


def write(path: Path, size: tuple[int, int] = (24, 16), value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value // 2, 255 - value)).save(path)
    return path


# A line for each set: its name, files of its layout, and the expected (name, scene).
LAYOUTS = {
    "sots-indoor": (
        ["SOTS/indoor/hazy/1400_10.png", "SOTS/indoor/hazy/1400_2.png", "SOTS/indoor/gt/1400.png"],
        [("1400_2", "1400"), ("1400_10", "1400")],
    ),
    "sots-outdoor": (
        ["SOTS/outdoor/hazy/0001_0.8_0.2.jpg", "SOTS/outdoor/clear/0001.png"],
        [("0001_0.8_0.2", "0001")],
    ),
    "hsts": (
        ["HSTS/synthetic/synthetic/0586.jpg", "HSTS/synthetic/original/0586.jpg"],
        [("0586", "0586")],
    ),
    "hsts-real": (["HSTS/real-world/0887.jpg"], [("0887", "0887")]),
    "its": (
        ["ITS/hazy/1_1_0.90179.png", "ITS/clear/1.png", "ITS/trans/1_1.png"],
        [("1_1_0.90179", "1")],
    ),
    "ots": (
        ["OTS/hazy/part1/0025_0.85_0.04.jpg", "OTS/clear/0025.jpg"],
        [("part1/0025_0.85_0.04", "0025")],
    ),
    "rtts": (["RTTS/JPEGImages/AM_Bing_211.png"], [("AM_Bing_211", "AM_Bing_211")]),
    "urhi": (["URHI/BD_Baidu_001.jpg"], [("BD_Baidu_001", "BD_Baidu_001")]),
    "reside-6k-train": (["RESIDE-6K/train/hazy/7.jpg", "RESIDE-6K/train/GT/7.jpg"], [("7", "7")]),
    "reside-6k-test": (
        ["RESIDE-6K/test/hazy/0001_0.8_0.2.jpg", "RESIDE-6K/test/GT/0001_0.8_0.2.jpg"],
        [("0001_0.8_0.2", "0001_0.8_0.2")],
    ),
    "o-haze": (
        ["O-HAZE/hazy/01_outdoor_hazy.jpg", "O-HAZE/GT/01_outdoor_GT.jpg"],
        [("01_outdoor_hazy", "01_outdoor")],
    ),
    "i-haze": (
        ["I-HAZE/hazy/01_indoor_hazy.jpg", "I-HAZE/GT/01_indoor_GT.jpg"],
        [("01_indoor_hazy", "01_indoor")],
    ),
    "dense-haze": (["Dense-Haze/hazy/01_hazy.png", "Dense-Haze/GT/01_GT.png"], [("01_hazy", "01")]),
    "nh-haze": (["NH-HAZE/hazy/01_hazy.png", "NH-HAZE/GT/01_GT.png"], [("01_hazy", "01")]),
    "haze4k-train": (
        ["Haze4K/train/haze/1_0.89_1.56.png", "Haze4K/train/gt/1.png"],
        [("1_0.89_1.56", "1")],
    ),
    "haze4k-test": (["Haze4K/test/IN/9.png", "Haze4K/test/GT/9.png"], [("9", "9")]),
}


def test_every_registered_set_has_a_layout_here() -> None:
    assert set(LAYOUTS) == set(DATASETS.names())


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_published_layout_is_read(tmp_path: Path, name: str) -> None:
    files, expected = LAYOUTS[name]
    for file in files:
        write(tmp_path / file)
    dataset = open_dataset(name, tmp_path)
    assert [(sample.name, sample.scene) for sample in dataset] == expected
    assert dataset.oddities == ()
    has_clear = {sample.clear is not None for sample in dataset}
    assert has_clear == {bool(DATASETS.get(name).clear_folders)} == {dataset.paired}
    # The set's own folder is accepted as the root as well.
    inside = tmp_path / Path(files[0]).parts[0]
    assert len(open_dataset(name, inside)) == len(expected)


@pytest.mark.parametrize("name", LAYOUTS)
def test_wrong_root_names_layout_and_publication(tmp_path: Path, name: str) -> None:
    dataset = DATASETS.get(name)
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DatasetNotFoundError) as caught:
            open_dataset(name, root)
        message = str(caught.value)
        assert dataset.layout in message
        assert dataset.published in message
        assert str(root) in message
        assert "\n" not in message


def test_data_sets_are_told_apart(tmp_path: Path) -> None:
    for file in LAYOUTS["haze4k-test"][0]:
        write(tmp_path / file)
    with pytest.raises(DatasetNotFoundError):
        open_dataset("reside-6k-test", tmp_path / "Haze4K")


def test_a_missing_clear_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path / "SOTS/indoor/hazy/1400_1.png")
    with pytest.raises(DatasetNotFoundError, match="no folder gt or clear or original or target"):
        open_dataset("sots-indoor", tmp_path)


def test_an_empty_hazy_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "SOTS/indoor/hazy").mkdir(parents=True)
    (tmp_path / "SOTS/indoor/gt").mkdir()
    with pytest.raises(DatasetNotFoundError, match="holds no picture"):
        open_dataset("sots-indoor", tmp_path)


def test_names_tell_airlight_and_transmission(tmp_path: Path) -> None:
    write(tmp_path / "SOTS/outdoor/hazy/0001_1_0.2.jpg")
    write(tmp_path / "SOTS/outdoor/gt/0001.png")
    (sample,) = open_dataset("sots-outdoor", tmp_path)
    assert sample.airlight == (1.0, 1.0, 1.0)
    write(tmp_path / "ITS/hazy/1_1_0.90179.png")
    write(tmp_path / "ITS/clear/1.png")
    (tmp_path / "ITS/trans").mkdir()
    Image.new("L", (24, 16), 51).save(tmp_path / "ITS/trans/1_1.png")
    (sample,) = open_dataset("its", tmp_path)
    assert sample.airlight == (0.90179,) * 3
    loaded = sample.load()
    assert loaded.transmission is not None
    np.testing.assert_allclose(loaded.transmission, np.full((16, 24), 0.2), atol=1e-6)
    assert loaded.oddities == ()


def test_unpaired_and_duplicate_files_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "SOTS/indoor"
    write(folder / "hazy/1400_1.png")
    write(folder / "gt/1400.png")
    write(folder / "hazy/1401_1.png")  # its ground truth is missing
    write(folder / "hazy/1402_1.png")  # its ground truth is there twice
    write(folder / "gt/1402.png")
    write(folder / "gt/1402.jpg")
    write(folder / "hazy/1400_2.png")  # is there twice itself
    write(folder / "hazy/1400_2.jpg")
    write(folder / "gt/1499.png")  # nobody needs it
    write(folder / "hazy/cover.png")  # no id in its name
    (folder / "hazy/README.txt").write_text("x")
    (folder / "hazy/.DS_Store").write_text("x")
    dataset = open_dataset("sots-indoor", tmp_path)
    assert [sample.name for sample in dataset] == ["1400_1"]
    assert dataset.counts() == {
        OddityKind.MISSING_CLEAR: 1,
        OddityKind.DUPLICATE: 3,
        OddityKind.UNRECOGNISED: 1,
        OddityKind.UNUSED_CLEAR: 1,
        OddityKind.NOT_AN_IMAGE: 1,
    }
    assert {oddity.path.name for oddity in dataset.failures} == {
        "1401_1.png",
        "1402_1.png",
        "1400_2.png",
        "1400_2.jpg",
        "cover.png",
    }
    for oddity in dataset.oddities:
        assert oddity.message.startswith(str(oddity.path))


@given(
    scenes=st.lists(st.integers(0, 50), min_size=1, max_size=8, unique=True),
    data=st.data(),
)
def test_pairing_does_not_depend_on_the_order_of_a_listing(
    scenes: list[int], data: st.DataObject
) -> None:
    folder = Path("hazy")
    hazy = [folder / f"{scene}_{haze}.png" for scene in scenes for haze in (1, 2)]
    clear = [Path("gt") / f"{scene}.jpg" for scene in scenes]

    def scene_of(stem: str) -> str:
        return stem.split("_", maxsplit=1)[0]

    shuffled_hazy = data.draw(st.permutations(hazy))
    shuffled_clear = data.draw(st.permutations(clear))
    samples, oddities = pair(
        shuffled_hazy,
        shuffled_clear,
        hazy_folder=folder,
        scene_of_hazy=scene_of,
        scene_of_clear=scene_of,
    )
    assert oddities == []
    assert {(sample.hazy.stem, sample.clear) for sample in samples} == {
        (path.stem, Path("gt") / f"{scene_of(path.stem)}.jpg") for path in hazy
    }


def test_names_sort_as_people_count() -> None:
    names = ["9_a", "9_b", "10_a", "a1", "a²", "b"]
    assert sorted(["b", "10_a", *names[3:5], "9_b", "9_a"], key=natural_key) == names


def test_the_border_of_reside_is_cropped_and_reported(tmp_path: Path) -> None:
    write(tmp_path / "SOTS/indoor/hazy/1400_1.png", (24, 16))
    whole = np.random.default_rng(0).integers(0, 256, (36, 44, 3), dtype=np.uint8)
    (tmp_path / "SOTS/indoor/gt").mkdir()
    Image.fromarray(whole).save(tmp_path / "SOTS/indoor/gt/1400.png")
    (sample,) = open_dataset("sots-indoor", tmp_path)
    loaded = sample.load()
    assert loaded.clear is not None
    np.testing.assert_array_equal(loaded.clear, whole[10:-10, 10:-10])
    assert [oddity.kind for oddity in loaded.oddities] == [OddityKind.CROPPED]


@pytest.mark.parametrize("size", [(25, 16), (44, 16), (64, 56), (14, 6)])
def test_any_other_difference_of_size_is_an_error_naming_both(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    write(tmp_path / "hazy/a.png", (24, 16))
    write(tmp_path / "gt/a.png", size)
    (sample,) = open_folder(tmp_path)
    with pytest.raises(SizeMismatchError) as caught:
        sample.load()
    message = str(caught.value)
    for part in (str(sample.hazy), str(sample.clear), "24x16", f"{size[0]}x{size[1]}"):
        assert part in message


def test_spread_takes_evenly_spaced_samples(tmp_path: Path) -> None:
    for index in range(10):
        write(tmp_path / f"{index}.png", (4, 4))
    dataset = open_photo_folder(tmp_path)
    assert [sample.name for sample in dataset.spread(5)] == ["0", "2", "4", "6", "8"]
    assert len(dataset.spread(99)) == 10
    with pytest.raises(ValueError, match="at least 1"):
        dataset.spread(0)


# --- plain folders ------------------------------------------------------------------------------


def test_paired_folder_by_name_role_and_resides_rule(tmp_path: Path) -> None:
    write(tmp_path / "a/hazy/x_1.png")
    write(tmp_path / "a/GT/x_1.jpg")
    write(tmp_path / "b/hazy/01_hazy.png")
    write(tmp_path / "b/clear/01_GT.png")
    write(tmp_path / "c/hazy/1400_3.png")
    write(tmp_path / "c/gt/1400.png")
    for folder in "abc":
        dataset = open_folder(tmp_path / folder)
        assert len(dataset) == 1, folder
        assert dataset.oddities == ()
        assert dataset.name == folder


def test_one_pairing_rule_holds_for_a_whole_folder(tmp_path: Path) -> None:
    write(tmp_path / "hazy/street.png")
    write(tmp_path / "hazy/street_2.png")
    write(tmp_path / "gt/street.png")
    dataset = open_folder(tmp_path)
    assert [sample.name for sample in dataset] == ["street"]
    assert [oddity.path.name for oddity in dataset.failures] == ["street_2.png"]


def test_a_paired_folder_may_hold_transmission_maps(tmp_path: Path) -> None:
    write(tmp_path / "hazy/a.png")
    write(tmp_path / "gt/a.png")
    write(tmp_path / "trans/a.png")
    (sample,) = open_paired_folder(tmp_path / "hazy", tmp_path / "gt")
    assert sample.transmission == tmp_path / "trans/a.png"


def test_maps_are_found_from_within_the_hazy_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("hazy", "gt", "trans"):
        write(tmp_path / folder / "a.png")
    (tmp_path / "hazy/deeper").mkdir()
    for inside, hazy in (("hazy", "."), ("hazy/deeper", "..")):
        monkeypatch.chdir(tmp_path / inside)
        (sample,) = open_paired_folder(Path(hazy), tmp_path / "gt")
        assert sample.transmission == tmp_path / "trans/a.png"


def test_maps_lie_beside_a_linked_hazy_folder(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/photos/a.png")
    for folder in ("gt", "trans"):
        write(tmp_path / "pairs" / folder / "a.png")
    (tmp_path / "pairs/hazy").symlink_to(tmp_path / "elsewhere/photos")
    (sample,) = open_folder(tmp_path / "pairs")
    assert sample.transmission == tmp_path / "pairs/trans/a.png"


def test_two_transmission_maps_of_one_name_fail(tmp_path: Path) -> None:
    for folder in ("hazy", "gt"):
        for name in ("a", "b", "c"):
            write(tmp_path / folder / f"{name}.png")
    for name in ("a.png", "a.tif", "b.png"):
        write(tmp_path / "trans" / name)
    dataset = open_folder(tmp_path)
    maps = {sample.name: sample.transmission for sample in dataset}
    assert maps == {"b": tmp_path / "trans/b.png", "c": None}
    (failure,) = dataset.failures
    assert failure.kind is OddityKind.DUPLICATE
    assert failure.path == tmp_path / "hazy/a.png"
    assert "the transmission map a is claimed by a.png, a.tif; keep one" in failure.message


def test_photos_keep_their_subfolders_apart(tmp_path: Path) -> None:
    write(tmp_path / "a/1.png")
    write(tmp_path / "b/1.png")
    dataset = open_photo_folder(tmp_path)
    assert [sample.name for sample in dataset] == ["a/1", "b/1"]
    assert not dataset.paired


def test_unsupported_kind_is_a_failure_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "phone.heic").write_bytes(b"....ftypheic" + bytes(20))
    (sample,) = open_photo_folder(tmp_path)
    with pytest.raises(PhotoError, match="HEIC"):
        sample.load()


def test_a_folder_without_truth_or_pictures_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "half/hazy/a.png")
    with pytest.raises(DatasetNotFoundError, match="no ground truth"):
        open_folder(tmp_path / "half")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetNotFoundError, match="no picture"):
        open_folder(tmp_path / "empty")
    with pytest.raises(DatasetNotFoundError, match="no folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(DatasetNotFoundError, match="no picture"):
        open_paired_folder(tmp_path / "half/hazy", tmp_path / "empty")


# --- results among the pictures -----------------------------------------------------------------


def evaluated(folder: Path) -> Path:
    """A folder as an evaluation leaves it, with one picture."""
    (folder / "records").mkdir(parents=True)
    (folder / "settings.json").write_text("{}")
    write(folder / "images/set/dcp/1.png")
    return folder


@pytest.mark.parametrize("output", ["hazy", "gt", "trans"])
def test_an_output_among_pairs_is_refused(tmp_path: Path, output: str) -> None:
    for folder in ("hazy", "gt", "trans"):
        write(tmp_path / folder / "a.png")
    out = tmp_path / "gt" / ".." / output
    with pytest.raises(DatasetNotFoundError, match=f"{output}: is the output folder as well"):
        open_paired_folder(tmp_path / "hazy", tmp_path / "gt", results=[out])
    with pytest.raises(DatasetNotFoundError, match=f"{output}: is the output folder as well"):
        open_folder(tmp_path, results=[out])
    # Results beside the pairs touch none of them.
    assert len(open_folder(tmp_path, results=[tmp_path])) == 1


def test_results_of_other_evaluations_are_no_photos(tmp_path: Path) -> None:
    write(tmp_path / "1.png")
    write(tmp_path / "day/2.png")
    # Half of the marks is none.
    write(tmp_path / "records/3.png")
    (tmp_path / "settings.json").write_text("{}")
    for name in ("out", "day/out", "now"):
        evaluated(tmp_path / name)
    dataset = open_photo_folder(tmp_path, results=[tmp_path / "now"])
    assert [sample.name for sample in dataset] == ["1", "day/2", "records/3"]
    odd = {oddity.path for oddity in dataset.oddities if oddity.kind is OddityKind.RESULTS}
    assert odd == {tmp_path / "out", tmp_path / "day/out"}
    assert dataset.failures == ()


def test_pictures_of_an_evaluation_are_taken_by_name(tmp_path: Path) -> None:
    out = evaluated(tmp_path / "runs/out")
    assert [sample.name for sample in open_photo_folder(out / "images")] == ["set/dcp/1"]
    with pytest.raises(
        DatasetNotFoundError, match=r"holds no picture .*runs/out: holds the results"
    ):
        open_photo_folder(tmp_path / "runs")


def test_photos_within_the_output_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "images/a.png")
    with pytest.raises(DatasetNotFoundError, match="images: lies in the output folder"):
        open_photo_folder(tmp_path / "images", results=[tmp_path])


def test_a_benchmark_takes_no_results_for_photos(tmp_path: Path) -> None:
    folder = tmp_path / "URHI"
    write(folder / "a.jpg")
    write(folder / "new/images/urhi/dcp/a.png")
    evaluated(folder / "old")
    for output in (folder / "new", tmp_path):
        samples = open_dataset("urhi", tmp_path, results=[folder / "new", output])
        assert [sample.name for sample in samples] == ["a"]
    with pytest.raises(DatasetNotFoundError, match="URHI: is the output folder as well"):
        open_dataset("urhi", tmp_path, results=[folder])
    write(tmp_path / "SOTS/indoor/hazy/1400_1.png")
    write(tmp_path / "SOTS/indoor/gt/1400.png")
    with pytest.raises(DatasetNotFoundError, match="gt: is the output folder as well"):
        open_dataset("sots-indoor", tmp_path, results=[tmp_path / "SOTS/indoor/gt"])


def test_results_are_no_class(tmp_path: Path) -> None:
    write(tmp_path / "wren/1.png")
    evaluated(tmp_path / "out")
    (found,) = open_class_folder(tmp_path)
    assert found.name == "wren"
    for output, cause in ((tmp_path, "is the output folder"), (tmp_path.parent, "lies in the")):
        with pytest.raises(DatasetNotFoundError, match=cause):
            open_class_folder(tmp_path, results=[output])


# --- decoding -----------------------------------------------------------------------------------


def test_eight_bit_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    decoded = read_rgb(tmp_path / "a.png")
    np.testing.assert_array_equal(decoded.pixels, pixels)
    assert decoded.conversion is None


@pytest.mark.parametrize(
    ("mode", "conversion"),
    [
        ("P", None),
        ("L", "grey"),
        ("1", "grey"),
        ("RGBA", "alpha"),
        ("LA", "grey, alpha"),
        ("CMYK", "converted from CMYK to sRGB"),
    ],
)
def test_other_modes_are_converted_and_named(
    tmp_path: Path, mode: str, conversion: str | None
) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(path)
    decoded = read_rgb(path)
    assert decoded.pixels.shape == (4, 6, 3)
    assert decoded.pixels.min() == 255
    assert decoded.conversion == conversion


def test_transparent_pixels_are_refused(tmp_path: Path) -> None:
    Image.new("RGBA", (6, 4), (9, 9, 9, 128)).save(tmp_path / "a.png")
    assert cv2.imwrite(str(tmp_path / "b.png"), np.full((4, 6, 4), 40_000, dtype=np.uint16))
    for name in ("a.png", "b.png"):
        with pytest.raises(PhotoError, match="transparent"):
            read_rgb(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_rounded_to_eight_even_in_the_dark(
    tmp_path: Path, suffix: str, channels: int
) -> None:
    # Every value is below 256: a test of the values would take this for an 8-bit picture.
    shape = (4, 6) if channels == 1 else (4, 6, 3)
    dark = np.full(shape, 200, dtype=np.uint16)
    dark[0, 0] = 257
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), dark)
    decoded = read_rgb(path)
    assert decoded.conversion == ("16 bits, grey" if channels == 1 else "16 bits")
    assert decoded.pixels.shape == (4, 6, 3)
    assert decoded.pixels[0, 0, 0] == 1
    assert decoded.pixels[1, 1, 0] == 1  # 200 / 257 = .78 rounds to 1
    bright = np.full(shape, 65535, dtype=np.uint16)
    assert cv2.imwrite(str(path), bright)
    assert read_rgb(path).pixels.min() == 255


def test_sixteen_bit_channels_keep_their_order(tmp_path: Path) -> None:
    bgr = np.zeros((4, 6, 3), dtype=np.uint16)
    bgr[..., 2] = 30 * 257
    assert cv2.imwrite(str(tmp_path / "a.png"), bgr)
    assert read_rgb(tmp_path / "a.png").pixels[0, 0].tolist() == [30, 0, 0]


def test_floating_point_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(PhotoError, match="not supported"):
        read_rgb(tmp_path / "a.tif")


def test_the_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_rgb(tmp_path / "a.jpg").pixels.shape == (6, 4, 3)


@pytest.mark.parametrize("keep", [0, 5, 60, 400])
def test_a_broken_png_is_an_error_naming_the_file(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(2).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PhotoError, match=r"a\.png"):
        read_rgb(path)


def test_a_flipped_byte_in_a_png_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(2).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(PhotoError, match=r"a\.png"):
        read_rgb(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="does not exist"):
        read_rgb(tmp_path / "a.png")


# --- the registry -------------------------------------------------------------------------------


def test_data_set_names_are_unique_and_listed() -> None:
    class Again(BenchmarkDataset):
        name = "its"

    with pytest.raises(ValueError, match="already"):
        register_dataset(Again)
    with pytest.raises(UnknownNameError, match="sots-indoor"):
        open_dataset("sots", Path())


def test_the_folder_is_never_importable_as_top_level_datasets() -> None:
    checkout = Path(__file__).resolve().parents[2]
    completed = subprocess.run(
        [sys.executable, "-c", "import datasets"],
        cwd=checkout,
        env={"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode != 0
    assert "import dehaze.datasets, not datasets" in completed.stderr
